"""Training on rounded weights: the forward and backward pass see 4-bit groups or FP8 blocks, the optimizer the rest."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

FP8_MAX = 448.0
BLOCK = 128


def to_four_bits(weight: Tensor, group: int = 32) -> Tensor:
    """Each `group` of a row between its own minimum and maximum in 15 steps: what Q4_K does, with exact scales."""
    grouped = weight.view(*weight.shape[:-1], -1, group)
    low, high = grouped.aminmax(dim=-1, keepdim=True)
    low = low.clamp(max=0)
    step = ((high - low) / 15).clamp(min=1e-12)
    return (((grouped - low) / step).round_() * step + low).view(weight.shape)


def fp8_scales(weight: Tensor) -> Tensor:
    """One scale per 128x128 block [ceil(rows / 128), ceil(cols / 128)], float32."""
    rows, cols = weight.shape
    padded = nn.functional.pad(weight.float().abs(), (0, -cols % BLOCK, 0, -rows % BLOCK))
    blocks = padded.view(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    return blocks.amax((1, 3)).clamp(min=1e-12) / FP8_MAX


def spread_scales(scales: Tensor, rows: int, cols: int) -> Tensor:
    """The scale of every weight [rows, cols]."""
    return scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :cols]


def to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(float8_e4m3fn [rows, cols], `weight_scale_inv` float32): the value times the scale is the weight."""
    scales = fp8_scales(weight)
    scaled = weight.float() / spread_scales(scales, *weight.shape)
    return scaled.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scales


def through_fp8(weight: Tensor) -> Tensor:
    quantized, scales = to_fp8(weight)
    return quantized.float() * spread_scales(scales, *weight.shape)


def through_bf16(weight: Tensor) -> Tensor:
    return weight.to(torch.bfloat16).float()


@contextmanager
def rounded(parameters: list[nn.Parameter], bits: int | None) -> Iterator[None]:
    """Weights rounded to 4 (groups) or 8 (FP8 blocks) bits inside the block, as they were after it; None: untouched.

    A gradient taken inside is applied to the unrounded weights (straight-through estimation).
    """
    if bits is None:
        yield
        return
    round_weight = {4: to_four_bits, 8: through_fp8}[bits]
    kept = [p.data for p in parameters]
    for p in parameters:
        p.data = round_weight(p.data)
    try:
        yield
    finally:
        for p, data in zip(parameters, kept, strict=True):
            p.data = data
