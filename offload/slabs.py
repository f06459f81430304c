"""Where the bytes of each expert lie in a model's files, and where they come to lie in a slot.

A slab is an expert's part of one stacked tensor. Slabs begin at any multiple of 32, direct reads only at a block: a
slot has room for the blocks around each slab, one part behind the other, and tensors are views at the right distance.
Where a matrix lies in pieces (offload.nf4_slabs), they are put together in its room once they are there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from offload.drive import BLOCK_BYTES, block_ceil, block_floor
from offload.reader import Piece, cut
from offload.slots import ExpertKey
from quant.kernels import ExpertWeights
from quant.tensor import QuantizedTensor
from quant.types import BlockType


@dataclass(frozen=True)
class PlacedRange:
    """`nbytes` bytes of a file from `offset` on, whose blocks are read to a room from its byte `place` on."""

    path: Path
    offset: int
    nbytes: int
    place: int = 0


class ExpertMatrices(Protocol):
    """The experts' matrices of one kind."""

    @property
    def type(self) -> BlockType:
        """How they are multiplied."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """[experts, rows, cols]."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files that they are in."""

    @property
    def slab_bytes(self) -> int:
        """Bytes of one expert's matrix as it is multiplied."""

    @property
    def room_bytes(self) -> int:
        """Bytes of a slot that one of them takes, whole blocks."""

    def start(self, expert: int) -> int:
        """Where its first byte is in the room, less whole blocks."""

    def ranges(self, expert: int) -> Sequence[PlacedRange]:
        """What has to be read, in this order."""

    def finish(self, expert: int, room: np.ndarray) -> None:
        """Make the matrix out of what was read. May be called from any thread. Raises StoreError."""

    @property
    def lies_as_read(self) -> bool:
        """Whether `finish` has nothing to do."""


@dataclass(frozen=True)
class StackedTensor:
    """Expert after expert in one file, from `offset` on. See ExpertMatrices."""

    path: Path
    offset: int
    type: BlockType
    shape: tuple[int, int, int]
    lies_as_read = True

    @property
    def paths(self) -> Sequence[Path]:
        """See ExpertMatrices.paths."""
        return [self.path]

    @property
    def slab_bytes(self) -> int:
        """Bytes of one expert's matrix."""
        return self.type.nbytes(self.shape[1:])

    @property
    def room_bytes(self) -> int:
        """Bytes of a slot that reading one slab may take, wherever in a block it begins."""
        return block_ceil(self.slab_bytes) + (0 if self._starts_at_blocks else BLOCK_BYTES)

    @property
    def _starts_at_blocks(self) -> bool:
        return self.offset % BLOCK_BYTES == 0 and self.slab_bytes % BLOCK_BYTES == 0

    def start(self, expert: int) -> int:
        """The first byte of a slab."""
        return self.offset + expert * self.slab_bytes

    def ranges(self, expert: int) -> Sequence[PlacedRange]:
        """See ExpertMatrices.ranges."""
        return [PlacedRange(self.path, self.start(expert), self.slab_bytes)]

    def finish(self, expert: int, room: np.ndarray) -> None:
        """See ExpertMatrices.finish."""


@dataclass(frozen=True)
class ScatteredTensor:
    """Matrices of one kind, each somewhere in some file. See ExpertMatrices."""

    type: BlockType
    shape: tuple[int, int, int]
    found: tuple[PlacedRange, ...]
    lies_as_read = True

    @property
    def paths(self) -> Sequence[Path]:
        """See ExpertMatrices.paths."""
        return list(dict.fromkeys(found.path for found in self.found))

    @property
    def slab_bytes(self) -> int:
        """See ExpertMatrices.slab_bytes."""
        return self.type.nbytes(self.shape[1:])

    @property
    def room_bytes(self) -> int:
        """See ExpertMatrices.room_bytes."""
        return block_ceil(self.slab_bytes) + BLOCK_BYTES

    def start(self, expert: int) -> int:
        """See ExpertMatrices.start."""
        return self.found[expert].offset

    def ranges(self, expert: int) -> Sequence[PlacedRange]:
        """See ExpertMatrices.ranges."""
        return [self.found[expert]]

    def finish(self, expert: int, room: np.ndarray) -> None:
        """See ExpertMatrices.finish."""


@dataclass(frozen=True)
class LayerSlabs:
    """The experts of a layer: `parts` are gate, up and down, or gate above up in one and down."""

    parts: tuple[ExpertMatrices, ...]

    @property
    def experts(self) -> int:
        """How many there are."""
        return self.parts[0].shape[0]

    @property
    def expert_bytes(self) -> int:
        """Bytes of an expert's weights."""
        return sum(part.slab_bytes for part in self.parts)

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot for one of them."""
        return sum(part.room_bytes for part in self.parts)

    @property
    def expert_weights(self) -> int:
        """Weights of an expert."""
        return sum(part.shape[1] * part.shape[2] for part in self.parts)

    def weights(self, expert: int, slot: np.ndarray) -> ExpertWeights:
        """The matrices of an expert whose bytes were read to `slot`."""
        tensors, start = [], 0
        for part in self.parts:
            first = start + part.start(expert) % BLOCK_BYTES
            tensors.append(QuantizedTensor(part.type, part.shape[1:], slot[first : first + part.slab_bytes]))
            start += part.room_bytes
        if len(tensors) == 3:
            return ExpertWeights(*tensors)
        both, down = tensors
        width = both.rows // 2
        return ExpertWeights(both.row_range(0, width), both.row_range(width, 2 * width), down)

    def pack(self, expert: int, weights: ExpertWeights, slot: np.ndarray) -> None:
        """Put the matrices of an expert to where `weights` of the same slot finds them."""
        packed = self.weights(expert, slot)
        for source, target in ((weights.gate, packed.gate), (weights.up, packed.up), (weights.down, packed.down)):
            np.copyto(target.data, source.data)


class SlabMap:
    """All experts of a model by layer number, and the files that they are in."""

    def __init__(self, layers: Mapping[int, LayerSlabs]) -> None:
        self.layers = dict(layers)
        self.paths: tuple[Path, ...] = tuple(
            dict.fromkeys(path for layer in layers.values() for part in layer.parts for path in part.paths)
        )
        self._unfinished = {
            number: not all(part.lies_as_read for part in layer.parts) for number, layer in self.layers.items()
        }
        self._file = {path: number for number, path in enumerate(self.paths)}

    def pieces(self, key: ExpertKey, slot: memoryview) -> list[Piece]:
        """The reads that bring an expert to `slot`: gate, up, then down."""
        layer, expert = key
        pieces, start = [], 0
        for part in self.layers[layer].parts:
            for found in part.ranges(expert):
                begin, end = block_floor(found.offset), found.offset + found.nbytes
                first = start + found.place
                target = slot[first : first + block_ceil(end) - begin]
                pieces += cut(self._file[found.path], begin, target, end - begin)
            start += part.room_bytes
        return pieces

    def finisher(self, key: ExpertKey, slot: np.ndarray) -> Callable[[], None] | None:
        """What has to be done in `slot` when all pieces are there; None for nothing."""
        layer, expert = key
        parts = self.layers[layer].parts
        if not self._unfinished[layer]:
            return None

        def finish() -> None:
            start = 0
            for part in parts:
                part.finish(expert, slot[start : start + part.room_bytes])
                start += part.room_bytes

        return finish
