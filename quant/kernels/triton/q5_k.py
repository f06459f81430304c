"""Q5_K: 256 weights in 176 bytes. As Q4_K, with a fifth bit: bit j of byte i belongs to weight i of run j."""

import triton
import triton.language as tl

from quant.kernels.triton.bits import aligned_words
from quant.kernels.triton.k_scales import scales_and_minima


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words."""
    start = block * 44
    scale, factor, factor2, minimum, minimum2 = scales_and_minima(row, start, run // 2, mask)
    q = aligned_words(row, start + 12 + run * 4 + place, mask)
    fifth = aligned_words(row, start + 4 + run % 2 * 4 + place, mask) >> (run // 2 * 2).to(tl.uint32)
    low = (q & 0x0F0F0F0F) | ((fifth << 4) & 0x10101010)
    high = ((q >> 4) & 0x0F0F0F0F) | ((fifth << 3) & 0x10101010)
    return low, high, scale, factor, factor2, minimum, minimum2
