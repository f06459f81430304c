"""The one door to the routed experts: forward(layer, x, ids, weights) -> y.

Today every expert lies in mapped memory and is multiplied where it lies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quant.kernels import ExpertCall, ExpertWeights, Kernels
from quant.kernels.fused import FusedKernels
from quant.tensor import QuantizedTensor


class Experts(Protocol):
    """Multiplies tokens by the experts that the router chose for them."""

    def forward(
        self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: ExpertWeights | None = None
    ) -> Tensor:
        """Weighted sum of expert outputs, and of that of `shared`, which every token goes to with weight 1.

        `x` [T, hidden] f32, `ids` [T, k] int64, `weights` [T, k] f32 -> [T, hidden] f32. Not thread-safe.
        """

    def counters(self) -> dict[str, int]:
        """Work done so far: `{tier}_experts` (expert calls) and `{tier}_bytes` (weight bytes read) per tier."""


class LayerExperts(Protocol):
    """The experts of one layer, each found by its number."""

    def expert(self, index: int) -> ExpertWeights:
        """The three matrices of an expert where they lie, without a copy."""

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert, all three matrices."""


@dataclass(frozen=True)
class StackedExperts:
    """Three stacked tensors: gate and up [experts, width, hidden], down [experts, hidden, width]."""

    gate: QuantizedTensor
    up: QuantizedTensor
    down: QuantizedTensor

    def expert(self, index: int) -> ExpertWeights:
        """See LayerExperts.expert."""
        return ExpertWeights(self.gate.slab(index), self.up.slab(index), self.down.slab(index))

    @property
    def expert_bytes(self) -> int:
        """See LayerExperts.expert_bytes."""
        return (self.gate.nbytes + self.up.nbytes + self.down.nbytes) // self.gate.shape[0]


@dataclass(frozen=True)
class FusedExperts:
    """Some files stack gate above up in one tensor: gate_up [experts, 2 * width, hidden]."""

    gate_up: QuantizedTensor
    down: QuantizedTensor

    def expert(self, index: int) -> ExpertWeights:
        """See LayerExperts.expert."""
        both = self.gate_up.slab(index)
        width = both.rows // 2
        return ExpertWeights(both.row_range(0, width), both.row_range(width, 2 * width), self.down.slab(index))

    @property
    def expert_bytes(self) -> int:
        """See LayerExperts.expert_bytes."""
        return (self.gate_up.nbytes + self.down.nbytes) // self.gate_up.shape[0]


class MappedExperts:
    """All experts in mapped memory: the file's pages are the RAM tier and nothing is copied."""

    def __init__(self, layers: Mapping[int, LayerExperts], kernels: Kernels) -> None:
        self._layers = dict(layers)
        self._kernels = kernels
        self._fused = kernels if isinstance(kernels, FusedKernels) else None
        self._experts: dict[tuple[int, int], ExpertWeights] = {}  # those that were used before
        self._calls = 0
        self._bytes = 0

    def forward(
        self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: ExpertWeights | None = None
    ) -> Tensor:
        """See Experts.forward."""
        if len(x) == 1 and self._fused is not None:
            y = self._of_one_token(self._fused, layer, x, ids, weights, shared)
            if y is not None:
                return y
        groups = group_by_expert(ids, weights)
        calls = [ExpertCall(self._expert(layer, group.expert), group.tokens, group.scales) for group in groups]
        self._count(layer, len(calls))
        if shared is not None:
            calls.append(for_all_tokens(shared, len(x)))
        return self._kernels.experts(x, calls)

    def counters(self) -> dict[str, int]:
        """See Experts.counters."""
        return {"ram_experts": self._calls, "ram_bytes": self._bytes}

    def _of_one_token(
        self,
        kernels: FusedKernels,
        layer: int,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None,
    ) -> Tensor | None:
        """`forward` without grouping: every expert gets the same token. None for types that need the general way."""
        experts, scales = [self._expert(layer, index) for index in ids[0].tolist()], weights[0]
        if shared is not None:
            experts.append(shared)
            scales = torch.cat((scales, torch.ones(1)))
        y = kernels.weighted_experts(x, experts, scales)
        if y is not None:
            self._count(layer, ids.shape[1])
        return y

    def _expert(self, layer: int, index: int) -> ExpertWeights:
        """The expert, made once: describing three matrices takes longer than a narrow model's expert."""
        expert = self._experts.get((layer, index))
        if expert is None:
            expert = self._experts[layer, index] = self._layers[layer].expert(index)
        return expert

    def _count(self, layer: int, experts: int) -> None:
        self._calls += experts
        self._bytes += experts * self._layers[layer].expert_bytes


def for_all_tokens(weights: ExpertWeights, tokens: int) -> ExpertCall:
    """A call of a matrix that every one of `tokens` tokens goes to, with weight 1."""
    return ExpertCall(weights, torch.arange(tokens), torch.ones(tokens))


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
