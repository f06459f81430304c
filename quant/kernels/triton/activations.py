"""Activations as 16-bit integers with one scale for every 32: what the matrix-vector kernels multiply.

A token's record is 17 / 32 words for each of its activations: the integers' upper bytes, four to a word and signed,
then their lower bytes, unsigned, then the scales, float32. The rounding, at most 2**-16 of the largest of 32, is finer
than what float32 loses in a sum of thousands of products.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 32  # activations that share a scale
_TILE = 16  # groups at a time: many small programs end sooner than few large ones


@triton.jit
def _encode_kernel(x, out, stride, COLS: tl.constexpr, TILE: tl.constexpr):
    GROUPS: tl.constexpr = COLS // 32
    token = tl.program_id(1).to(tl.int64)
    group = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = (group < GROUPS)[:, None]
    col = group[:, None] * 32 + tl.arange(0, 32)[None, :]
    value = tl.load(x + token * stride + col, mask=inside, other=0.0).to(tl.float32)
    scale = tl.max(tl.abs(value), axis=1) / 32767.0
    inverse = tl.where(scale > 0.0, 1.0 / tl.where(scale > 0.0, scale, 1.0), 0.0)
    number = tl.floor(value * inverse[:, None] + 0.5).to(tl.int32)
    shift = (tl.arange(0, 4) * 8)[None, None, :]
    number = tl.reshape(number, [TILE, 8, 4])
    upper = tl.sum(((number >> 8) & 0xFF) << shift, axis=2)
    lower = tl.sum((number & 0xFF) << shift, axis=2)
    record = out + token * (COLS // 32 * 17)
    word = group[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(record + word, upper, mask=inside)
    tl.store(record + COLS // 4 + word, lower, mask=inside)
    scales = (record + COLS // 2).to(tl.pointer_type(tl.float32), bitcast=True)
    tl.store(scales + group, scale, mask=group < GROUPS)


def encoded(x: Tensor) -> Tensor:
    """x [T, cols] of any float type, cols a multiple of 32 that lie together -> records [T, cols / 32 * 17] int32."""
    tokens, cols = x.shape
    groups = cols // GROUP
    out = torch.empty(tokens, groups * 17, dtype=torch.int32, device=x.device)
    tile = min(_TILE, triton.next_power_of_2(groups))
    _encode_kernel[(triton.cdiv(groups, tile), tokens)](x, out, x.stride(0), COLS=cols, TILE=tile, num_warps=4)
    return out
