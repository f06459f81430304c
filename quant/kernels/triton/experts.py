"""(b) All experts of a layer that lie in a card's slots, for a few tokens: gate, up and SiLU in one launch, then down.

A pair is one token's use of one expert, number token * used + i. Pairs of one slot are multiplied together by the
program of the first of them, so that weights are read once for all its tokens. Each pair's result is stored on its
own and a last launch sums them in the order of i: nothing depends on the order in which programs run.
"""

import triton
import triton.language as tl

from quant.kernels.triton.dot import dot


@triton.jit
def _uses(slots, slot, PAIRS: tl.constexpr, ALL: tl.constexpr):
    """How many pairs have this slot."""
    other = tl.arange(0, ALL)
    same = tl.load(slots + other, mask=other < PAIRS, other=-1) == slot
    return tl.sum(same.to(tl.int32))


@triton.jit
def _is_first(slots, pair, slot, ALL: tl.constexpr):
    """Whether no earlier pair has this slot."""
    other = tl.arange(0, ALL)
    earlier = tl.load(slots + other, mask=other < pair, other=-1) == slot
    return tl.sum(earlier.to(tl.int32)) == 0


@triton.jit
def _use(slots, slot, number, PAIRS: tl.constexpr, ALL: tl.constexpr):
    """The pair that is use `number` of this slot, in rising order."""
    other = tl.arange(0, ALL)
    same = tl.load(slots + other, mask=other < PAIRS, other=-1) == slot
    rank = tl.cumsum(same.to(tl.int32), 0) - 1
    return tl.sum(tl.where(same & (rank == number), other, 0))


@triton.jit
def gate_up_kernel(
    arena,  # bytes
    table,  # [slots, 3] int64: where gate, up and down start in the arena
    slots,  # [PAIRS] int32, negative for experts that are not here
    x,  # records: [tokens, COLS / 32 * 17] int32
    h,  # [PAIRS, FF] float32
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
    FF: tl.constexpr,
    USED: tl.constexpr,
    PAIRS: tl.constexpr,
    ALL: tl.constexpr,  # PAIRS rounded up to a power of two
    WIDTH: tl.constexpr,  # tokens multiplied at a time
    ROWS: tl.constexpr,  # of gate, and as many of up
    BLOCKS: tl.constexpr,
):
    pair = tl.program_id(1)
    slot = tl.load(slots + pair)
    if slot < 0:
        return
    uses = 1
    if PAIRS > USED:
        if not _is_first(slots, pair, slot, ALL):
            return
        uses = _uses(slots, slot, PAIRS, ALL)
    first = tl.program_id(0) * ROWS
    gate = arena + tl.multiple_of(tl.load(table + slot * 3), 32)
    up = arena + tl.multiple_of(tl.load(table + slot * 3 + 1), 32)
    rows = ()
    for i in tl.static_range(ROWS):
        rows = rows + (gate + tl.minimum(first + i, FF - 1).to(tl.int64) * ROW_BYTES,)
    for i in tl.static_range(ROWS):
        rows = rows + (up + tl.minimum(first + i, FF - 1).to(tl.int64) * ROW_BYTES,)
    for start in range(0, uses, WIDTH):
        pairs = ()
        tokens = ()
        for i in tl.static_range(WIDTH):
            if PAIRS > USED:
                use = _use(slots, slot, tl.minimum(start + i, uses - 1), PAIRS, ALL)
            else:
                use = pair
            pairs = pairs + (use,)
            tokens = tokens + (x + use // USED * (COLS // 32 * 17),)
        found = dot(rows, tokens, WORDS, COLS, BLOCK, BLOCK_WORDS, RUN, SPAN, PARTS, SIGNED, ZERO, MINIMA, BLOCKS)
        for i in tl.static_range(ROWS):
            unit = first + i
            for t in tl.static_range(WIDTH):
                gated = found[i][t]
                value = gated / (1.0 + tl.exp(-gated)) * found[ROWS + i][t]
                tl.store(h + pairs[t] * FF + unit, value, mask=(unit < FF) & (start + t < uses))


@triton.jit
def down_kernel(
    arena,
    table,
    slots,
    h,  # records: [PAIRS, COLS / 32 * 17] int32
    parts,  # [PAIRS, HIDDEN] float32
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
    HIDDEN: tl.constexpr,
    USED: tl.constexpr,
    PAIRS: tl.constexpr,
    ALL: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    pair = tl.program_id(1)
    slot = tl.load(slots + pair)
    if slot < 0:
        return
    uses = 1
    if PAIRS > USED:
        if not _is_first(slots, pair, slot, ALL):
            return
        uses = _uses(slots, slot, PAIRS, ALL)
    first = tl.program_id(0) * ROWS
    down = arena + tl.multiple_of(tl.load(table + slot * 3 + 2), 32)
    rows = ()
    for i in tl.static_range(ROWS):
        rows = rows + (down + tl.minimum(first + i, HIDDEN - 1).to(tl.int64) * ROW_BYTES,)
    for start in range(0, uses, WIDTH):
        pairs = ()
        tokens = ()
        for i in tl.static_range(WIDTH):
            if PAIRS > USED:
                use = _use(slots, slot, tl.minimum(start + i, uses - 1), PAIRS, ALL)
            else:
                use = pair
            pairs = pairs + (use,)
            tokens = tokens + (h + use * (COLS // 32 * 17),)
        found = dot(rows, tokens, WORDS, COLS, BLOCK, BLOCK_WORDS, RUN, SPAN, PARTS, SIGNED, ZERO, MINIMA, BLOCKS)
        for i in tl.static_range(ROWS):
            for t in tl.static_range(WIDTH):
                at = parts + pairs[t] * HIDDEN + first + i
                tl.store(at, found[i][t], mask=(first + i < HIDDEN) & (start + t < uses))


@triton.jit
def weighted_sum_kernel(parts, slots, weights, y, hidden, USED: tl.constexpr, TILE: tl.constexpr):
    """y [tokens, hidden] = sum over i of weights[token, i] * parts[token * USED + i], i in rising order."""
    token = tl.program_id(1)
    col = tl.program_id(0) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE], tl.float32)
    for i in range(USED):
        pair = token * USED + i
        here = tl.load(slots + pair) >= 0
        part = tl.load(parts + pair * hidden + col, mask=(col < hidden) & here, other=0.0)
        total += tl.load(weights + pair) * part
    tl.store(y + token * hidden + col, total, mask=col < hidden)
