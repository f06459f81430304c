"""IQ4_XS: 256 weights in 136 bytes; nibbles of 16 bytes, weights i and i + 16 of a run of 32, index a table of values."""

import triton
import triton.language as tl

from quant.kernels.triton.bits import aligned_words, half_to_float, permuted_bytes

# The table, four signed bytes to a word: -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113.


@triton.jit
def _looked_up(nibbles):
    """The table's bytes for a word of four nibbles, one to a byte."""
    selectors = nibbles & 0x07070707
    selectors = (selectors | (selectors >> 4)) & 0x00FF00FF
    selectors = (selectors | (selectors >> 8)) & 0xFFFF  # four nibbles that choose among eight bytes
    lower = permuted_bytes(nibbles * 0 + 0xBFAD9881, nibbles * 0 + 0xF6EADDCF, selectors)
    upper = permuted_bytes(nibbles * 0 + 0x26190D01, nibbles * 0 + 0x71594535, selectors)
    mask = ((nibbles >> 3) & 0x01010101) * 0xFF
    return lower ^ ((lower ^ upper) & mask)


@triton.jit
def words(row, block, run, place, mask):
    """See Decoder.words."""
    start = block * 34  # a multiple of 8 bytes, not of 16: a thread loads 2 words
    part = run // 2
    q = aligned_words(row, start + 2 + 2 * run + place, mask)
    head = aligned_words(row, start, mask)
    low_bits = aligned_words(row, start + 1, mask) >> (4 * part).to(tl.uint32)
    high_bits = head >> (16 + 2 * part).to(tl.uint32)
    scale = half_to_float(head & 0xFFFF)
    factor = ((low_bits & 0xF) | ((high_bits & 3) << 4)).to(tl.int32) - 32
    return _looked_up(q & 0x0F0F0F0F), _looked_up((q >> 4) & 0x0F0F0F0F), scale, factor, factor, 0.0, 0.0
