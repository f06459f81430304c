"""What experts a model has, as far as their sizes go."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertLayout:
    """The experts of a model as far as their sizes go: by layer number, how many there are and what one takes.

    `slot_bytes` is what an expert takes in memory, with whatever its reading needs around it.
    """

    counts: Mapping[int, int]
    slot_bytes: Mapping[int, int]
    used_per_token: int

    @property
    def total_experts(self) -> int:
        """Experts of all layers."""
        return sum(self.counts.values())

    @property
    def total_bytes(self) -> int:
        """Bytes of slots for all experts."""
        return sum(self.counts[layer] * self.slot_bytes[layer] for layer in self.counts)

    @property
    def smallest_budget_bytes(self) -> int:
        """One slot of each size: the least with which every expert can be multiplied."""
        return sum(set(self.slot_bytes.values()))
