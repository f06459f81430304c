"""What a card of the pool is: slots that can be filled, and experts in them that can be multiplied."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from offload.arena import Arena
from offload.card_sending import CardSending
from offload.multiply import CardWork, Multiplier
from offload.slabs import LayerSlabs
from offload.slots import ExpertKey, SizeClass, Slot
from quant.kernels import ExpertCall

# Adds what a card has computed to y [T, hidden]; waits for it.
AddResult = Callable[[Tensor], None]

# On a card: x [1, hidden] f32, ids int64 and weights f32 [1, k] -> [1, hidden], the sum of those that have slots there.
Share = Callable[[Tensor, Tensor, Tensor], Tensor]


class PoolDevice(Protocol):
    """A card with slots. `upload` and `download` are called from a thread, `begin` by the one that computes.

    `is_exact` says that its results have the bits of the CPU's kernels, so that sums must keep their order. `sending`
    is for a prompt's experts, which have no slot there; None where that brings nothing.
    """

    name: str
    is_exact: bool

    @property
    def sending(self) -> CardSending | None:
        """See above."""

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        """Copy an expert from a slot in RAM to one of its own. It may be used when this returns."""

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        """Copy an expert from one of its slots to one in RAM."""

    def begin(self, x: Tensor, works: Sequence[CardWork]) -> AddResult:
        """Begin to multiply x [T, hidden] f32 by experts in its slots, as Kernels.experts would."""

    def share(self, layer: int) -> Share | None:
        """What it does by itself, without asking the host who is there: it can be recorded. None where it cannot."""

    def moved(self, key: ExpertKey, slot: Slot | None) -> None:
        """From now on an expert is in this slot; None: it is not here any more."""

    def close(self) -> None:
        """Free its memory. Safe to call twice."""


class VirtualCard:
    """A card in host memory: for tests, and for seeing the pool work where there is no card."""

    is_exact, sending = True, None  # nothing is won by a copy within RAM

    def __init__(
        self,
        name: str,
        classes: Sequence[SizeClass],
        slots: Sequence[int],
        layers: dict[int, LayerSlabs],
        multiplier: Multiplier,
    ) -> None:
        self.name = name
        self._arena = Arena(classes, slots)
        self._layers, self._multiplier = layers, multiplier

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        """See PoolDevice.upload."""
        np.copyto(self._arena.array(target)[: source.size], source)

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        """See PoolDevice.download."""
        np.copyto(target, self._arena.array(source)[: target.size])

    def begin(self, x: Tensor, works: Sequence[CardWork]) -> AddResult:
        """See PoolDevice.begin. The work is done by who asks for the result."""
        calls = [
            ExpertCall(
                self._layers[work.key[0]].weights(work.key[1], self._arena.array(work.slot)), work.tokens, work.scales
            )
            for work in works
        ]
        return lambda y: self._multiplier.add(x, calls, y)

    def share(self, layer: int) -> Share | None:
        """See PoolDevice.share: its sums must keep their order."""
        return None

    def moved(self, key: ExpertKey, slot: Slot | None) -> None:
        """See PoolDevice.moved."""

    def close(self) -> None:
        """See PoolDevice.close."""
