"""Counting what every tier does. A few additions for each layer: cheap enough to be always on."""

from dataclasses import dataclass, field


@dataclass
class TierTally:
    """One tier's work: experts multiplied out of it, their bytes, and how long that took."""

    experts: int = 0
    nbytes: int = 0
    busy_s: float = 0.0

    def add(self, experts: int, nbytes: int, seconds: float = 0.0) -> None:
        """Count some work."""
        self.experts += experts
        self.nbytes += nbytes
        self.busy_s += seconds


@dataclass
class Tally:
    """All tiers' work, and waiting. `ram` are experts that were there when asked for, `drive` those that were not."""

    cards: tuple[TierTally, ...] = ()
    ram: TierTally = field(default_factory=TierTally)
    drive: TierTally = field(default_factory=TierTally)
    stall_s: float = 0.0
    used: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def counters(self) -> dict[str, int]:
        """Experts and bytes by tier; tiers that are not there are left out."""
        named = {"ram": self.ram, "drive": self.drive} | {f"card{n}": card for n, card in enumerate(self.cards)}
        counts: dict[str, int] = {}
        for name, tier in named.items():
            counts[f"{name}_experts"] = tier.experts
            counts[f"{name}_bytes"] = tier.nbytes
        return counts
