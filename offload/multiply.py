"""Weighted sums of experts whose bits do not depend on who is multiplied when.

Experts come in any order: those at hand first, the others as the drive brings them. Sums of floats do depend on their
order, so each result either gets a row of its own, to be summed in one order at the end, or experts are added in that
order one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offload.slots import ExpertKey, Slot
from quant.kernels import ExpertCall, ExpertWeights, Kernels
from quant.kernels.expert_records import ExpertRecords
from quant.kernels.fused import FusedKernels

# An expert as a slot in RAM has it, or its gate, up and down, each by itself.
ExpertBytes = np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class CardWork:
    """An expert in a slot of a card, and what it is asked: see ExpertCall."""

    key: ExpertKey
    slot: Slot
    tokens: Tensor
    scales: Tensor


@dataclass(frozen=True, eq=False)
class SentWork:
    """An expert that a card gets for one product. `content` gives its bytes, in the copying thread."""

    key: ExpertKey
    content: Callable[[], ExpertBytes]
    tokens: Tensor
    scales: Tensor


class Multiplier:
    """Kernels, asked to add experts in a given order: however they are split into calls, the bits are the same."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.fused = kernels if isinstance(kernels, FusedKernels) else None

    def readable(self, records: Mapping[int, ExpertRecords]) -> Mapping[int, ExpertRecords]:
        """The records that the kernels read: all, or none where they do not."""
        fused = self.fused
        works = fused is not None and all(fused.multiplies(found.types) for found in records.values())
        return records if works else {}

    def sum(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        """The sum over all experts of a layer, [T, hidden]: the bits of adding them to zeros, in a single call."""
        return self.kernels.experts(x, calls)

    def add(self, x: Tensor, calls: Sequence[ExpertCall], y: Tensor) -> None:
        """Add scale * expert(x) to `y` [T, hidden] f32, call after call. `x` [T, hidden] f32."""
        if not calls or (self.fused is not None and self.fused.add_experts(x, calls, y)):
            return
        for call in calls:
            own_tokens = torch.arange(call.tokens.numel())
            part = self.kernels.experts(x[call.tokens], [ExpertCall(call.weights, own_tokens, call.scales)])
            y.index_add_(0, call.tokens, part)


class RowSum:
    """The experts of one token: each adds to a row of its own, in any order; `total` sums rows in the order of rows."""

    def __init__(self, x: Tensor, scales: Tensor) -> None:
        """x [1, hidden] f32, and the weight of each row's expert, [n] f32."""
        self.x = x.expand(len(scales), -1).contiguous()
        self.rows = torch.zeros(self.x.shape)
        self._scales = scales

    def call(self, row: int, expert: ExpertWeights) -> ExpertCall:
        """What computes `row`: to be given to a Multiplier with `x` and `rows`."""
        return ExpertCall(expert, torch.tensor([row]), self._scales[row : row + 1])

    def card_work(self, row: int, key: ExpertKey, slot: Slot) -> CardWork:
        """The same for an expert on a card."""
        return CardWork(key, slot, torch.tensor([row]), self._scales[row : row + 1])

    def total(self) -> Tensor:
        """[1, hidden]: the same bits as one call with all experts in the order of rows."""
        total = torch.zeros(1, self.rows.shape[1])
        for row in self.rows:
            total += row
        return total
