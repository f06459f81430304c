"""Copies of experts between RAM and cards."""

from dataclasses import dataclass

from offload.slots import ExpertKey, Slot


@dataclass(frozen=True)
class Promotion:
    """A copy from RAM to a slot of a card."""

    key: ExpertKey
    card: int
    source: Slot
    target: Slot


@dataclass(frozen=True)
class Demotion:
    """A copy from a card back to a slot in RAM."""

    key: ExpertKey
    card: int
    source: Slot
    target: Slot


PlannedMove = Promotion | Demotion
