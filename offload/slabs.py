"""Where the bytes of each expert lie in a model's files, and where they come to lie in a slot.

A slab is an expert's part of one stacked tensor. Slabs begin at any multiple of 32, direct reads only at a block: a
slot has room for the blocks around each slab, one part behind the other, and tensors are views at the right distance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offload.drive import BLOCK_BYTES, block_ceil, block_floor
from offload.reader import Piece, cut
from offload.slots import ExpertKey
from quant.kernels import ExpertWeights
from quant.tensor import QuantizedTensor
from quant.types import BlockType


@dataclass(frozen=True)
class StackedTensor:
    """The experts' matrices of one kind in a file: [experts, rows, cols], expert after expert, from `offset` on."""

    path: Path
    offset: int
    type: BlockType
    shape: tuple[int, int, int]

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


@dataclass(frozen=True)
class LayerSlabs:
    """The experts of a layer: `parts` are gate, up and down, or gate above up in one and down."""

    parts: tuple[StackedTensor, ...]

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
            dict.fromkeys(part.path for layer in layers.values() for part in layer.parts)
        )
        self._file = {path: number for number, path in enumerate(self.paths)}

    def pieces(self, key: ExpertKey, slot: memoryview) -> list[Piece]:
        """The reads that bring an expert to `slot`: gate, up, then down."""
        layer, expert = key
        pieces, start = [], 0
        for part in self.layers[layer].parts:
            first = part.start(expert)
            begin, end = block_floor(first), first + part.slab_bytes
            target = slot[start : start + block_ceil(end) - begin]
            pieces += cut(self._file[part.path], begin, target, end - begin)
            start += part.room_bytes
        return pieces
