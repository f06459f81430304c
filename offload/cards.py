"""Graphics cards by name, for machines that are only described. A new card is one more row.

Memory, its speed and the arithmetic (16-bit matrices, no sparsity) are the makers' figures. The link is what copies
from pinned memory reach (PCIe 3.0 x16 about 12 GB/s, 4.0 x16 25, 5.0 x16 50), where the card gets all its lanes.
"""

from dataclasses import dataclass

from offload.machine import GIB, Card
from quant.errors import RequestError

PCIE3, PCIE4, PCIE5 = 12e9, 25e9, 50e9
# A card of which only the memory is known: a common one of that size, not a fast one.
_UNNAMED_READ_BYTES_PER_S, _UNNAMED_FLOPS, _UNNAMED_LINK_BYTES_PER_S = 900e9, 70e12, PCIE4


@dataclass(frozen=True)
class _Kind:
    name: str
    memory_gib: int
    read_gb_per_s: float
    teraflops: float
    link_bytes_per_s: float


_TABLE = (
    _Kind("RTX3060", 12, 360, 25, PCIE4),
    _Kind("RTX3080", 10, 760, 59, PCIE4),
    _Kind("RTX3090", 24, 936, 71, PCIE4),
    _Kind("RTX4060Ti", 16, 288, 44, PCIE4 / 2),
    _Kind("RTX4070", 12, 504, 58, PCIE4),
    _Kind("RTX4080", 16, 717, 97, PCIE4),
    _Kind("RTX4090", 24, 1008, 165, PCIE4),
    _Kind("RTX4090-48G", 48, 1008, 165, PCIE4),
    _Kind("RTX5060Ti", 16, 448, 47, PCIE5 / 2),
    _Kind("RTX5070Ti", 16, 896, 88, PCIE5),
    _Kind("RTX5080", 16, 960, 113, PCIE5),
    _Kind("RTX5090", 32, 1792, 210, PCIE5),
    _Kind("RTXA5000", 24, 768, 111, PCIE4),
    _Kind("RTXA6000", 48, 768, 155, PCIE4),
    _Kind("RTX6000Ada", 48, 960, 182, PCIE4),
    _Kind("RTXPRO6000", 96, 1792, 250, PCIE5),
    _Kind("L4", 24, 300, 60, PCIE4),
    _Kind("L40S", 48, 864, 181, PCIE4),
    _Kind("T4", 16, 320, 65, PCIE3),
    _Kind("V100", 32, 900, 112, PCIE3),
    _Kind("A10", 24, 600, 125, PCIE4),
    _Kind("A100", 80, 2039, 312, PCIE4),
    _Kind("A100-40G", 40, 1555, 312, PCIE4),
    _Kind("H100", 80, 3350, 990, PCIE5),
    _Kind("H200", 141, 4800, 990, PCIE5),
    _Kind("B200", 180, 8000, 2250, PCIE5),
)


def _plain(name: str) -> str:
    """Names differ in capitals, blanks and the maker's name only: "GeForce RTX 4090" is the RTX4090."""
    kept = "".join(character for character in name.lower() if character.isalnum())
    for maker in ("nvidia", "geforce"):
        kept = kept.removeprefix(maker)
    return kept


_BY_NAME = {_plain(kind.name): kind for kind in _TABLE}


def card_named(name: str, link_bytes_per_s: float | None = None) -> Card:
    """The card called `name`. Raises RequestError that lists the known ones."""
    plain = _plain(name)
    kind = _BY_NAME.get(plain) or _BY_NAME.get(f"rtx{plain}")
    if kind is None:
        known = ", ".join(kind.name for kind in _TABLE)
        raise RequestError(f"unknown card {name!r}: say how much memory it has, as in 2x24G, or use one of {known}")
    link = kind.link_bytes_per_s if link_bytes_per_s is None else link_bytes_per_s
    return Card(kind.name, kind.memory_gib * GIB, kind.read_gb_per_s * 1e9, link, kind.teraflops * 1e12)


def unnamed_card(memory_bytes: int, link_bytes_per_s: float | None = None) -> Card:
    """A card of which nobody said more than its memory."""
    link = _UNNAMED_LINK_BYTES_PER_S if link_bytes_per_s is None else link_bytes_per_s
    return Card(f"card of {memory_bytes / GIB:.3g} GiB", memory_bytes, _UNNAMED_READ_BYTES_PER_S, link, _UNNAMED_FLOPS)
