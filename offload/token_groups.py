"""Grouping a chunk's tokens by the expert that they go to."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenGroup:
    """The tokens that go to one expert: `tokens` [n] int64 rows of x, `scales` [n] f32."""

    expert: int
    tokens: Tensor
    scales: Tensor


def group_by_expert(ids: Tensor, weights: Tensor) -> list[TokenGroup]:
    """Turn `ids` and `weights` [T, k] into one group per expert, experts in rising order, tokens in order."""
    flat, order = ids.flatten().sort(stable=True)
    experts, counts = torch.unique_consecutive(flat, return_counts=True)
    tokens = torch.div(order, ids.shape[1], rounding_mode="floor")
    scales = weights.flatten()[order]
    sizes = counts.tolist()
    return [
        TokenGroup(expert, token_rows, scale_rows)
        for expert, token_rows, scale_rows in zip(
            experts.tolist(), tokens.split(sizes), scales.split(sizes), strict=True
        )
    ]
