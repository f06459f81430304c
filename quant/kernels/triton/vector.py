"""(a) Matrix times 1 to 8 tokens: a program multiplies a few rows of one head's matrix."""

import triton
import triton.language as tl

from quant.kernels.triton.dot import dot


@triton.jit
def linear_kernel(
    weights,  # bytes of [heads, rows, cols]
    x,  # planes: [tokens, heads, cols] float32
    y,  # [tokens, heads, rows] float32
    rows,
    WORDS: tl.constexpr,
    COLS: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    RUN: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    BITS: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    head = tl.program_id(1)
    first = tl.program_id(0) * ROWS
    matrix = weights + (head * rows).to(tl.int64) * ROW_BYTES
    row = ()
    for i in tl.static_range(ROWS):  # the last tile's rows beyond the end are the last row
        row = row + (matrix + tl.minimum(first + i, rows - 1).to(tl.int64) * ROW_BYTES,)
    token = ()
    for i in tl.static_range(TOKENS):
        token = token + (x + (i * HEADS + head) * COLS,)
    found = dot(row, token, WORDS, COLS, BLOCK, BLOCK_WORDS, RUN, SPAN, HALVES, BITS, BLOCKS)
    for i in tl.static_range(ROWS):
        for t in tl.static_range(TOKENS):
            tl.store(y + (t * HEADS + head) * rows + first + i, found[i][t], mask=first + i < rows)
