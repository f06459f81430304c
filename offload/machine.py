"""A machine as the planner and the simulator see it: how much each place holds, and how fast it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 1 << 30
# Kept free of weights, or a "hit" is a page fault: an eighth of the memory for the system and its page cache.
RAM_RESERVE = 1 / 8
# A sixteenth for fragmentation and a display.
CARD_RESERVE = 1 / 16


@dataclass(frozen=True)
class Card:
    """A graphics card. Speeds in bytes/s: its own memory read, and copies to it from the host. `flops` are operations
    per second in products of 16-bit matrices. A virtual one is memory of the host, all of it for weights and cache."""

    name: str
    memory_bytes: int
    read_bytes_per_s: float
    link_bytes_per_s: float
    flops: float
    is_virtual: bool = False

    @property
    def usable_bytes(self) -> int:
        """What weights, cache and buffers may take together; a virtual card needs no buffers."""
        return self.memory_bytes if self.is_virtual else int(self.memory_bytes * (1 - CARD_RESERVE))

    @property
    def cache_share(self) -> float:
        """What a layer's cache takes here, of what it takes in RAM: numbers have 16 bits instead of 32."""
        return 1.0 if self.is_virtual else 0.5


@dataclass(frozen=True)
class Machine:
    """`drive_bytes_per_s` None means that there is no drive to read experts from while the model runs.

    `flops` are floating-point operations per second of the processor, in products of matrices. `origins` says of each
    figure where it comes from ("measured", "given", "assumed"), by the names "RAM", "RAM speed", "drive", "cards",
    "arithmetic".
    """

    ram_bytes: int
    ram_bytes_per_s: float
    drive_bytes_per_s: float | None
    flops: float
    cards: tuple[Card, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable_ram_bytes(self) -> int:
        """What weights, cache and buffers may take together."""
        return int(self.ram_bytes * (1 - RAM_RESERVE))

    def __str__(self) -> str:
        names: dict[str, int] = {}
        for card in self.cards:
            names[card.name] = names.get(card.name, 0) + 1
        cards = ", ".join(f"{count} x {name}" for name, count in names.items()) or "no card"
        drive = "no drive" if self.drive_bytes_per_s is None else f"drive {self.drive_bytes_per_s / 1e9:.3g} GB/s"
        return f"{cards}; {self.ram_bytes / GIB:.4g} GiB RAM at {self.ram_bytes_per_s / 1e9:.3g} GB/s; {drive}"
