"""(c) Many tokens: plain bfloat16 matrices of some experts on tensor cores, all of them in one launch.

Tokens come sorted by expert. Entry e of `starts` says where the tokens of the chunk's expert e begin; sorted places
are counted from the chunk's first. Programs whose tile lies behind an expert's last token end at once.
"""

import triton
import triton.language as tl

from quant.kernels.triton.bits import matrix_product


@triton.jit
def gate_up_matrix_kernel(
    x,  # [tokens, COLS] bfloat16
    token,  # [places] int32: which row of x
    starts,  # [experts + 1] int32
    gate,  # [experts, FF, COLS] bfloat16
    up,  # the same
    h,  # [places, FF] bfloat16
    COLS: tl.constexpr,
    FF: tl.constexpr,
    TILE: tl.constexpr,  # tokens
    UNITS: tl.constexpr,  # rows of gate, and as many of up
    STEP: tl.constexpr,  # of COLS
):
    expert = tl.program_id(2)
    start = tl.load(starts + expert)
    count = tl.load(starts + expert + 1) - start
    member = tl.program_id(0) * TILE + tl.arange(0, TILE)
    if tl.program_id(0) * TILE >= count:
        return
    row = tl.load(token + start + member, mask=member < count, other=0).to(tl.int64)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    matrix = expert.to(tl.int64) * FF * COLS
    col = tl.arange(0, STEP)
    a = x + row[:, None] * COLS + col[None, :]
    place = matrix + tl.minimum(unit, FF - 1)[None, :] * COLS + col[:, None]
    g, u = gate + place, up + place
    gates = tl.zeros([TILE, UNITS], tl.float32)
    ups = tl.zeros([TILE, UNITS], tl.float32)
    for at in range(0, COLS, STEP):
        if COLS % STEP == 0:
            left, one, two = tl.load(a), tl.load(g), tl.load(u)
        else:
            inside = col < COLS - at
            left = tl.load(a, mask=inside[None, :], other=0.0)
            one = tl.load(g, mask=inside[:, None], other=0.0)
            two = tl.load(u, mask=inside[:, None], other=0.0)
        gates = matrix_product(left, one, gates)
        ups = matrix_product(left, two, ups)
        a += STEP
        g += STEP
        u += STEP
    value = gates / (1.0 + tl.exp(-gates)) * ups
    target = h + (start + member).to(tl.int64)[:, None] * FF + unit[None, :]
    tl.store(target, value.to(tl.bfloat16), mask=(member < count)[:, None] & (unit < FF)[None, :])


@triton.jit
def down_matrix_kernel(
    h,  # [places, COLS] bfloat16
    starts,  # [experts + 1] int32
    down,  # [experts, HIDDEN, COLS] bfloat16
    parts,  # [places, HIDDEN] float32
    COLS: tl.constexpr,
    HIDDEN: tl.constexpr,
    TILE: tl.constexpr,
    UNITS: tl.constexpr,
    STEP: tl.constexpr,
):
    expert = tl.program_id(2)
    start = tl.load(starts + expert)
    count = tl.load(starts + expert + 1) - start
    member = tl.program_id(0) * TILE + tl.arange(0, TILE)
    if tl.program_id(0) * TILE >= count:
        return
    row = (start + tl.minimum(member, count - 1)).to(tl.int64)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    col = tl.arange(0, STEP)
    a = h + row[:, None] * COLS + col[None, :]
    b = down + expert.to(tl.int64) * HIDDEN * COLS + tl.minimum(unit, HIDDEN - 1)[None, :] * COLS + col[:, None]
    acc = tl.zeros([TILE, UNITS], tl.float32)
    for at in range(0, COLS, STEP):
        if COLS % STEP == 0:
            left, right = tl.load(a), tl.load(b)
        else:
            inside = col < COLS - at
            left = tl.load(a, mask=inside[None, :], other=0.0)
            right = tl.load(b, mask=inside[:, None], other=0.0)
        acc = matrix_product(left, right, acc)
        a += STEP
        b += STEP
    target = parts + (start + member).to(tl.int64)[:, None] * HIDDEN + unit[None, :]
    tl.store(target, acc, mask=(member < count)[:, None] & (unit < HIDDEN)[None, :])


@triton.jit
def add_chunk_kernel(
    parts,  # [places, hidden] float32
    places,  # [tokens * USED] int32: a pair's sorted place, among all
    weights,  # [tokens * USED] float32
    y,  # [tokens, hidden] float32
    hidden,
    first,  # the chunk's first place
    last,  # and the one behind its last
    USED: tl.constexpr,
    TILE: tl.constexpr,
):
    """Adds to y what the chunk's experts give each token, times their weights, in the order of the token's experts."""
    token = tl.program_id(1).to(tl.int64)
    col = tl.program_id(0) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE], tl.float32)
    found = 0
    for i in range(USED):
        place = tl.load(places + token * USED + i)
        here = (place >= first) & (place < last)
        if here:
            part = tl.load(parts + (place - first).to(tl.int64) * hidden + col, mask=col < hidden, other=0.0)
            total += tl.load(weights + token * USED + i) * part
            found += 1
    if found > 0:
        at = y + token * hidden + col
        tl.store(at, tl.load(at, mask=col < hidden, other=0.0) + total, mask=col < hidden)
