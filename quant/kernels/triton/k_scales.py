"""The head of Q4_K and Q5_K blocks: two halves d and dmin, then 6-bit scales and minima of eight runs of 32 weights."""

import triton
import triton.language as tl

from quant.kernels.triton.bits import aligned_words, half_to_float


@triton.jit
def _word(head, place, NUMBER: tl.constexpr):
    """Word NUMBER of four that lie along the last dimension: one register, as each thread holds all four."""
    return tl.sum(tl.where(place == NUMBER, head, 0), axis=1, keep_dims=True)


@triton.jit
def scales_and_minima(row, start, pair, mask):
    """The block's scale, then of runs 2 * pair and 2 * pair + 1: (factor, factor, minimum, minimum).

    `start` is the block's first word, `pair` 0 to 3 has one entry along the last dimension.
    """
    place = tl.arange(0, 4)[None, :]
    head = aligned_words(row, start + place, mask)
    d = _word(head, place, 0)
    odd = (pair & 1).to(tl.uint32) * 16
    a, b, c = _word(head, place, 1) >> odd, _word(head, place, 2) >> odd, _word(head, place, 3) >> odd
    # The first four scales and minima lie in the low 6 bits of eight bytes; the others in the nibbles of the last
    # four, with their upper two bits on top of the first eight.
    scales = tl.where(pair < 2, a & 0x3F3F, (c & 0x0F0F) | ((a >> 2) & 0x3030))
    minima = tl.where(pair < 2, b & 0x3F3F, ((c >> 4) & 0x0F0F) | ((b >> 2) & 0x3030))
    scale, minimum = half_to_float(d & 0xFFFF), half_to_float(d >> 16)
    return (
        scale,
        (scales & 0xFF).to(tl.int32),
        ((scales >> 8) & 0xFF).to(tl.int32),
        minimum * (minima & 0xFF).to(tl.float32),
        minimum * ((minima >> 8) & 0xFF).to(tl.float32),
    )
