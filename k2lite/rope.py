"""Rotary positions with YaRN, in float32, on interleaved pairs (2i, 2i + 1) as the checkpoints have them."""

import math

import torch
from torch import Tensor

from k2lite.config import ModelConfig, YarnConfig


def inverse_frequencies(dim: int, theta: float, yarn: YarnConfig | None) -> Tensor:
    """Rotation per position of each pair, [dim / 2] f32 (YaRN, arXiv 2309.00071, section 3.2)."""
    wavelengths = theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if yarn is None:
        return 1 / wavelengths

    def pair_of(rotations: float) -> float:
        return dim * math.log(yarn.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = float(max(math.floor(pair_of(yarn.beta_fast)), 0))
    high = float(min(math.ceil(pair_of(yarn.beta_slow)), dim - 1))
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return 1 / (yarn.factor * wavelengths) * ramp + 1 / wavelengths * (1 - ramp)


def softmax_scale(config: ModelConfig) -> float:
    """Factor on the attention scores: 1 / sqrt(head width), times YaRN's temperature squared."""
    scale = config.head_dim**-0.5
    if config.yarn is not None and config.yarn.factor > 1:
        temperature = 0.1 * config.yarn.mscale_all_dim * math.log(config.yarn.factor) + 1
        scale *= temperature**2
    return scale


_TABLES_AHEAD = 256  # positions whose tables are made at once: one at a time takes nearly as long


class Rope:
    """Rotates the rotary part of queries and keys by their positions. One thread at a time."""

    def __init__(self, config: ModelConfig) -> None:
        self._inverse = inverse_frequencies(config.qk_rope_dim, config.rope_theta, config.yarn)
        self._first, self._tables = 0, (torch.empty(0, 0), torch.empty(0, 0))

    def rotations(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine for positions start .. start + count - 1, each [count, dim / 2] f32."""
        if not self._first <= start <= start + count <= self._first + len(self._tables[0]):
            angles = torch.arange(start, start + count + _TABLES_AHEAD, dtype=torch.float32)[:, None] * self._inverse
            self._first, self._tables = start, (angles.cos(), angles.sin())
        wanted = slice(start - self._first, start - self._first + count)
        return self._tables[0][wanted], self._tables[1][wanted]


def rotate(x: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate `x` [T, ..., dim] by one pair of [T, dim / 2] tables; the result has the same layout."""
    shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1] // 2)
    cos, sin = (table.view(shape) for table in rotations)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
