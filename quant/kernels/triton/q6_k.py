"""Q6_K: 256 weights in 210 bytes, so that only every second block starts on a 4-byte boundary."""

import triton
import triton.language as tl

from quant.kernels.triton.bits import half_to_float, halfword, signed_byte, words_of_halves


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words. A run is one word here: `place` is 0."""
    word = run + place
    start = block * 105
    half, upper, inner = word // 16, word % 16 // 8, word % 8
    low = words_of_halves(row, start + 2 * word, mask)
    high = words_of_halves(row, start + 64 + 16 * half + 2 * inner, mask) >> (2 * upper).to(tl.uint32)
    number = block * 210 + (192 + 8 * half + 2 * upper + inner // 4)
    first, second = signed_byte(row, number, mask), signed_byte(row, number + 4, mask)
    scale = half_to_float(halfword(row, start + 104, mask))
    low6 = (low & 0x0F0F0F0F) | ((high << 4) & 0x30303030)
    high6 = ((low >> 4) & 0x0F0F0F0F) | (high & 0x30303030)
    return low6, high6, scale, first, second, 0.0, 0.0
