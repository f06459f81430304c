"""(a) Matrix times 1 to 8 tokens: a program multiplies a few rows of one head's matrix."""

import triton
import triton.language as tl

from quant.kernels.triton.dot import dot


@triton.jit(do_not_specialize=["rows", "tokens"])
def linear_kernel(
    weights,  # bytes of [heads, rows, cols]
    x,  # records: [tokens, heads, COLS / 32 * 17] int32
    y,  # [tokens, heads, rows] float32
    rows,
    tokens,
    WORDS: tl.constexpr,
    COLS: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    RUN: tl.constexpr,
    SPAN: tl.constexpr,
    PARTS: tl.constexpr,
    SIGNED: tl.constexpr,
    ZERO: tl.constexpr,
    MINIMA: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,  # tokens, rounded up to a power of two
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
    for i in tl.static_range(WIDTH):
        token = token + (x + (tl.minimum(i, tokens - 1) * HEADS + head) * (COLS // 32 * 17),)
    found = dot(row, token, WORDS, COLS, BLOCK, BLOCK_WORDS, RUN, SPAN, PARTS, SIGNED, ZERO, MINIMA, BLOCKS)
    for i in tl.static_range(ROWS):
        for t in tl.static_range(WIDTH):
            tl.store(y + (t * HEADS + head) * rows + first + i, found[i][t], mask=(first + i < rows) & (t < tokens))
