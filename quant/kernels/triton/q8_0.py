"""Q8_0: 32 weights in 34 bytes, a half and 32 signed bytes."""

import triton
import triton.language as tl  # noqa: F401 - the interpreter asks every module for it

from quant.kernels.triton.bits import half_to_float, halfword, words_of_halves


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words."""
    start = block * 17
    q = words_of_halves(row, start + 1 + 2 * (run + place), mask)
    scale = half_to_float(halfword(row, start, mask))
    return q, scale, 1, 0.0
