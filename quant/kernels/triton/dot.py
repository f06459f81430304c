"""Rows of quantized weights times a few tokens, from registers: what every matrix-vector kernel is made of.

Activations are the integers of `activations`, so that one instruction multiplies four weights. Every tensor has the
same two dimensions, [runs of some blocks, words of a run], from the load on, and rows and tokens are tuples: so Triton
gives all of them one layout, whatever its version, and no value moves between threads before the last sum.
"""

import triton
import triton.language as tl

from quant.kernels.triton.bits import dot4, loaded


@triton.jit
def _activations(x, run_group, place, mask, COLS: tl.constexpr, RUN: tl.constexpr, ZERO: tl.constexpr):
    """One token's upper and lower bytes, their scale, what bytes of ZERO would take off, and the sum of the run."""
    at = x + (run_group + place)
    if RUN == 1:  # no wider loads than the words' own: they would be given another layout
        at = tl.max_contiguous(at, [1, 1])
    upper, lower = loaded(at, mask), loaded(at + COLS // 4, mask)
    scales = (x + COLS // 2).to(tl.pointer_type(tl.float32), bitcast=True)
    scale = loaded(scales + run_group // 8, mask)
    ones = upper * 0 + 0x01010101
    total = dot4(ones, lower, dot4(ones, upper, upper * 0, False, True) << 8, False, False)
    sum_of_run = tl.sum(total, axis=1, keep_dims=True).to(tl.float32) * scale
    return upper, lower, scale, total * -ZERO, sum_of_run


@triton.jit
def _add(acc, words, PART: tl.constexpr, PARTS: tl.constexpr, activations, SIGNED: tl.constexpr, MINIMA: tl.constexpr):
    """One token: each row's sum with the products of this part's bytes added."""
    upper, lower, x_scale, zero, x_sum = activations
    new = ()
    for row in tl.static_range(len(acc)):
        word, scale = words[row][PART], words[row][PARTS]
        factor, minimum = words[row][PARTS + 1 + PART], words[row][2 * PARTS + 1 + PART]
        number = (dot4(word, upper, upper * 0, SIGNED, True) << 8) + zero
        number = tl.sum(dot4(word, lower, number, SIGNED, False), axis=1, keep_dims=True) * factor
        value = tl.fma(scale * x_scale, number.to(tl.float32), acc[row])
        if MINIMA:
            value = tl.fma(-minimum, x_sum, value)
        new = new + (value,)
    return new


@triton.jit
def dot(
    rows,  # a tuple of pointers to the bytes of rows
    x,  # a tuple of pointers to tokens' records
    WORDS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    RUN: tl.constexpr,
    SPAN: tl.constexpr,
    PARTS: tl.constexpr,
    SIGNED: tl.constexpr,
    ZERO: tl.constexpr,
    MINIMA: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """By row and token, each row times each token: tuples of float32. Sums in one order, whatever else runs."""
    ROWS: tl.constexpr = len(rows)
    TOKENS: tl.constexpr = len(x)
    RUNS: tl.constexpr = BLOCK_WORDS // RUN
    SPAN_RUNS: tl.constexpr = SPAN // RUN
    LAST: tl.constexpr = COLS // BLOCK
    entry = tl.arange(0, BLOCKS * RUNS)[:, None]
    place = tl.arange(0, RUN)[None, :]
    run = entry % RUNS
    group = run // SPAN_RUNS * (PARTS * SPAN) + run % SPAN_RUNS * RUN
    acc = ()  # by token and row
    for _ in tl.static_range(TOKENS):
        sums = ()
        for _ in tl.static_range(ROWS):
            sums = sums + (tl.zeros([BLOCKS * RUNS, 1], tl.float32),)
        acc = acc + (sums,)
    for first in range(0, LAST, BLOCKS):
        block = first + entry // RUNS
        if LAST % BLOCKS == 0:
            mask = None
        else:
            mask = block < LAST
        words = ()
        for row in tl.static_range(ROWS):
            words = words + (WORDS(rows[row], block, run, place, mask),)
        for part in tl.static_range(PARTS):
            run_group = block * (BLOCK // 4) + group + part * SPAN
            new = ()
            for token in tl.static_range(TOKENS):
                activations = _activations(x[token], run_group, place, mask, COLS, RUN, ZERO)
                new = new + (_add(acc[token], words, part, PARTS, activations, SIGNED, MINIMA),)
            acc = new
    found = ()
    for row in tl.static_range(ROWS):
        values = ()
        for token in tl.static_range(TOKENS):
            values = values + (tl.sum(acc[token][row]),)
        found = found + (values,)
    return found
