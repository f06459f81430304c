"""Q6_K: 256 weights in 210 bytes, so that only every second block starts on a 4-byte boundary."""

import triton
import triton.language as tl  # noqa: F401 - the interpreter asks every module for it

from quant.kernels.triton.bits import half_to_float, halfword, signed_byte, words_of_halves


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words. A run is one word of the upper bits and what they belong to; `place` is 0."""
    start = block * 105
    half, inner = run // 8, run % 8
    first = start + 32 * half + 2 * inner
    a, b = words_of_halves(row, first, mask), words_of_halves(row, first + 16, mask)
    upper = words_of_halves(row, start + 64 + 16 * half + 2 * inner, mask)
    number = block * 210 + (192 + 8 * half + inner // 4)
    return (
        (a & 0x0F0F0F0F) | ((upper << 4) & 0x30303030),
        (b & 0x0F0F0F0F) | ((upper << 2) & 0x30303030),
        ((a >> 4) & 0x0F0F0F0F) | (upper & 0x30303030),
        ((b >> 4) & 0x0F0F0F0F) | ((upper >> 2) & 0x30303030),
        half_to_float(halfword(row, start + 104, mask)),
        signed_byte(row, number, mask),
        signed_byte(row, number + 2, mask),
        signed_byte(row, number + 4, mask),
        signed_byte(row, number + 6, mask),
        0.0,
        0.0,
        0.0,
        0.0,
    )
