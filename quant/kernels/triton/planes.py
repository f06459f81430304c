"""Activations into the planes that `dot` reads: float32, weight 4 * g + b of a token at b * cols / 4 + g."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024


@triton.jit
def _planes_kernel(x, out, stride, COLS: tl.constexpr, TILE: tl.constexpr):
    token = tl.program_id(1).to(tl.int64)
    col = tl.program_id(0) * TILE + tl.arange(0, TILE)
    value = tl.load(x + token * stride + col, mask=col < COLS, other=0.0).to(tl.float32)
    tl.store(out + token * COLS + (col % 4 * (COLS // 4) + col // 4), value, mask=col < COLS)


def planes(x: Tensor) -> Tensor:
    """x [T, cols] of any float type, cols contiguous and a multiple of 4 -> [T, cols] float32, on x's device."""
    tokens, cols = x.shape
    out = torch.empty(tokens, cols, dtype=torch.float32, device=x.device)
    _planes_kernel[(triton.cdiv(cols, _TILE), tokens)](x, out, x.stride(0), COLS=cols, TILE=_TILE, num_warps=4)
    return out
