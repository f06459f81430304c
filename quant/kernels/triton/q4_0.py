"""Q4_0: 32 weights in 18 bytes, a half and 16 bytes whose nibbles are weights i and i + 16."""

import triton
import triton.language as tl  # noqa: F401 - the interpreter asks every module for it

from quant.kernels.triton.bits import half_to_float, halfword, words_of_halves


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words."""
    start = block * 9
    q = words_of_halves(row, start + 1 + 2 * (run + place), mask)
    scale = half_to_float(halfword(row, start, mask))
    return q & 0x0F0F0F0F, (q >> 4) & 0x0F0F0F0F, scale, 1, 1, 0.0, 0.0
