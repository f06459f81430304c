"""Rows of quantized weights times a few tokens, from registers: what every matrix-vector kernel is made of.

Activations lie in four planes: plane b of a token holds weights 4 * g + b, so that the four bytes of neighbouring
words meet neighbouring floats. Every tensor has the same two dimensions, [runs of some blocks, words of a run], from
the load on, and rows and tokens are tuples: so Triton gives all of them one layout, whatever its version, and no value
moves between threads before the last sum.
"""

import triton
import triton.language as tl

from quant.kernels.triton.bits import float_offset, loaded, shifted_byte


@triton.jit
def _activations(x, at, mask, STRIDE: tl.constexpr, RUN: tl.constexpr, TOKENS: tl.constexpr):
    """Four tensors for each token, by token and byte, and each token's sum over bytes and run."""
    values = ()
    sums = ()
    for token in tl.static_range(TOKENS):
        place = x[token] + at
        if RUN == 1:  # no wider loads than the words' own: they would be given another layout
            place = tl.max_contiguous(place, [1, 1])
        a, b = loaded(place, mask), loaded(place + STRIDE, mask)
        c, d = loaded(place + 2 * STRIDE, mask), loaded(place + 3 * STRIDE, mask)
        values = values + ((a, b, c, d),)
        sums = sums + (tl.sum((a + b) + (c + d), axis=1, keep_dims=True),)
    return values, sums


@triton.jit
def _add(acc, words, HALF: tl.constexpr, values, sums, OFFSET: tl.constexpr, BITS: tl.constexpr):
    """One row: each token's sum with the products of this half's bytes added."""
    word, scale, minimum = words[HALF], words[2 + HALF], words[4 + HALF]
    a, b = shifted_byte(word, 0, BITS), shifted_byte(word, 1, BITS)
    c, d = shifted_byte(word, 2, BITS), shifted_byte(word, 3, BITS)
    minimum = tl.fma(scale, OFFSET, minimum)
    new = ()
    for token in tl.static_range(len(acc)):
        x = values[token]
        total = tl.fma(d, x[3], tl.fma(c, x[2], tl.fma(b, x[1], a * x[0])))
        total = tl.sum(total, axis=1, keep_dims=True)
        new = new + (tl.fma(-minimum, sums[token], tl.fma(scale, total, acc[token])),)
    return new


@triton.jit
def dot(
    rows,  # a tuple of pointers to the bytes of rows
    x,  # a tuple of pointers to tokens' planes, float32
    WORDS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    RUN: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    BITS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """By row and token, each row times each token: tuples of float32. Sums in one order, whatever else runs."""
    ROWS: tl.constexpr = len(rows)
    TOKENS: tl.constexpr = len(x)
    RUNS: tl.constexpr = BLOCK_WORDS // RUN
    SPAN_RUNS: tl.constexpr = SPAN // RUN
    LAST: tl.constexpr = COLS // BLOCK
    OFFSET: tl.constexpr = float_offset(BITS)
    entry = tl.arange(0, BLOCKS * RUNS)[:, None]
    place = tl.arange(0, RUN)[None, :]
    run = entry % RUNS
    group = run // SPAN_RUNS * (HALVES * SPAN) + run % SPAN_RUNS * RUN + place
    acc = ()
    for _ in tl.static_range(ROWS):
        tokens = ()
        for _ in tl.static_range(TOKENS):
            tokens = tokens + (tl.zeros([BLOCKS * RUNS, 1], tl.float32),)
        acc = acc + (tokens,)
    for first in range(0, LAST, BLOCKS):
        block = first + entry // RUNS
        if LAST % BLOCKS == 0:
            mask = None
        else:
            mask = block < LAST
        words = ()
        for row in tl.static_range(ROWS):
            words = words + (WORDS(rows[row], block, run, place, mask),)
        for half in tl.static_range(HALVES):
            at = block * (BLOCK // 4) + group + half * SPAN
            values, sums = _activations(x, at, mask, COLS // 4, RUN, TOKENS)
            new = ()
            for row in tl.static_range(ROWS):
                new = new + (_add(acc[row], words[row], half, values, sums, OFFSET, BITS),)
            acc = new
    found = ()
    for row in tl.static_range(ROWS):
        tokens = ()
        for token in tl.static_range(TOKENS):
            tokens = tokens + (tl.sum(acc[row][token]),)
        found = found + (tokens,)
    return found
