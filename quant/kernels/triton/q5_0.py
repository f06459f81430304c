"""Q5_0: 32 weights in 22 bytes, a half, 32 fifth bits and 16 bytes whose nibbles are weights i and i + 16."""

import triton
import triton.language as tl

from quant.kernels.triton.bits import half_to_float, halfword, words_of_halves


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words."""
    start = block * 11
    word = run + place
    q = words_of_halves(row, start + 3 + 2 * word, mask)
    fifth = words_of_halves(row, start + 1, mask) >> (4 * word).to(tl.uint32)
    # Multiplying puts bit i of a nibble into byte i, among others that the mask takes off.
    low = ((fifth & 0xF) * 0x204081) & 0x01010101
    high = (((fifth >> 16) & 0xF) * 0x204081) & 0x01010101
    scale = half_to_float(halfword(row, start, mask))
    return (q & 0x0F0F0F0F) | (low << 4), ((q >> 4) & 0x0F0F0F0F) | (high << 4), scale, 1, 1, 0.0, 0.0
