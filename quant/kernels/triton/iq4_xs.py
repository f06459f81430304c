"""IQ4_XS: 256 weights in 136 bytes; nibbles of 16 bytes, weights i and i + 16 of 32, are places in a table."""

import triton
import triton.language as tl

from quant.kernels.triton.bits import aligned_words, half_to_float, permuted_bytes

# The table, four signed bytes to a word: -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113.


@triton.jit
def _four(nibbles, upper):
    """The table's bytes for the lowest four nibbles; nibbles of `upper` choose between the table's halves."""
    first = permuted_bytes(nibbles * 0 + 0xBFAD9881, nibbles * 0 + 0xF6EADDCF, nibbles)
    second = permuted_bytes(nibbles * 0 + 0x26190D01, nibbles * 0 + 0x71594535, nibbles)
    return permuted_bytes(first, second, upper)


@triton.jit
def _looked_up(q):
    """The table's bytes for the low nibbles of a word, and for its high ones."""
    within = q & 0x77777777
    upper = ((q >> 1) & 0x44444444) | 0x32103210  # byte i of the first four, or of the second
    a, b = _four(within, upper), _four(within >> 16, upper >> 16)
    return permuted_bytes(a, b, q * 0 + 0x6420), permuted_bytes(a, b, q * 0 + 0x7531)


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
    low, high = _looked_up(q)
    return low, high, scale, factor, factor, 0.0, 0.0
