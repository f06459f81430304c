"""Where the matrices of an expert begin in a slot of a card, and where in one of RAM the same bytes are."""

from collections.abc import Sequence
from dataclasses import dataclass

from offload.drive import BLOCK_BYTES
from offload.slabs import LayerSlabs
from quant.types import BlockType


@dataclass(frozen=True)
class SlotMatrix:
    """A matrix [rows, cols] from byte `place` of a slot on: gate, up or down, or gate above up, two `parts` in one."""

    type: BlockType
    shape: tuple[int, int]
    place: int
    parts: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return self.type.nbytes(self.shape)


def slot_matrices(slabs: LayerSlabs, stacked: bool) -> tuple[SlotMatrix, ...]:
    """The matrices of a layer's experts in a slot of a card, always in the same places: gate, up and down, each where
    its room begins, or `stacked` gate above up as one, and down."""
    found, start = [], 0
    for part, count in zip(slabs.parts, _counts(slabs), strict=True):
        shape = part.shape[1] // count, part.shape[2]
        nbytes = part.slab_bytes // count
        found += [SlotMatrix(part.type, shape, start + number * nbytes) for number in range(count)]
        start += part.room_bytes
    if not stacked:
        return tuple(found)
    gate, _, down = found
    rows, cols = gate.shape
    return SlotMatrix(gate.type, (2 * rows, cols), gate.place, 2), down


def places_in_ram(slabs: LayerSlabs, expert: int) -> list[slice]:
    """Gate, up and down of one expert in a slot of RAM, where they lie as the drive has brought them."""
    found, start = [], 0
    for part, count in zip(slabs.parts, _counts(slabs), strict=True):
        first, nbytes = start + part.start(expert) % BLOCK_BYTES, part.slab_bytes // count
        found += [slice(first + number * nbytes, first + (number + 1) * nbytes) for number in range(count)]
        start += part.room_bytes
    return found


def _counts(slabs: LayerSlabs) -> Sequence[int]:
    """Matrices in each part: in a layer of two parts the first has gate above up."""
    return (1, 1, 1) if len(slabs.parts) == 3 else (2, 1)
