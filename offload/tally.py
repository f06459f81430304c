"""Counting what every tier does. A few additions for each layer: cheap enough to be always on."""

from dataclasses import dataclass, field

from offload.fastest import FastestWindow

_WINDOW_LAYERS = 64


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
    """All tiers' work, and waiting. `ram` are experts that were there when asked for, `drive` those that were not.

    `ram_fastest` is how fast the CPU has gone through weights with one token.
    """

    cards: tuple[TierTally, ...] = ()
    ram: TierTally = field(default_factory=TierTally)
    drive: TierTally = field(default_factory=TierTally)
    stall_s: float = 0.0
    used: dict[int, tuple[int, ...]] = field(default_factory=dict)
    ram_fastest: FastestWindow = field(default_factory=lambda: FastestWindow(_WINDOW_LAYERS))

    def cpu_worked(self, nbytes: int, shared_bytes: int, seconds: float) -> None:
        """The CPU multiplied experts of `nbytes` by one token, `shared_bytes` of which belong to no tier."""
        self.ram.busy_s += seconds * (1 - shared_bytes / nbytes)
        self.ram_fastest.add(nbytes, seconds)

    def counters(self) -> dict[str, int]:
        """Experts and bytes by tier; tiers that are not there are left out."""
        named = {"ram": self.ram, "drive": self.drive} | {f"card{n}": card for n, card in enumerate(self.cards)}
        counts: dict[str, int] = {}
        for name, tier in named.items():
            counts[f"{name}_experts"] = tier.experts
            counts[f"{name}_bytes"] = tier.nbytes
        return counts
