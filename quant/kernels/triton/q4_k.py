"""Q4_K: 256 weights in 144 bytes. Nibbles of 32 bytes are two runs of 32 weights."""

import triton
import triton.language as tl  # noqa: F401 - the interpreter asks every module for it

from quant.kernels.triton.bits import aligned_words
from quant.kernels.triton.k_scales import scales_and_minima


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words."""
    start = block * 36
    scale, factor, factor2, minimum, minimum2 = scales_and_minima(row, start, run // 2, mask)
    q = aligned_words(row, start + 4 + run * 4 + place, mask)
    return q & 0x0F0F0F0F, (q >> 4) & 0x0F0F0F0F, scale, factor, factor2, minimum, minimum2
