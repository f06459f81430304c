"""Experts in NF4 as bitsandbytes writes them: a matrix's codes, its factors, and perhaps factors of those, apart.

Kernels take both in one run, a factor before the codes of its 64 weights, as quant.nf4.values has them. Codes are read
behind the place that the matrix will take, so that putting it together needs no second memory: what is written never
overtakes what is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offload.drive import BLOCK_BYTES, block_ceil
from offload.resident import FileRange
from offload.slabs import PlacedRange
from quant.errors import StoreError
from quant.nf4.nested import NestedFactors
from quant.nf4.values import BLOCK, NF4, to_blocks
from quant.types import BlockType

_CODE_BYTES = BLOCK // 2
_BLOCKS_AT_ONCE = 1 << 13  # what is moved stays in a core's cache


@dataclass(frozen=True)
class Nested:
    """Factors that are bytes: where their own factors lie, and what the bytes stand for. See NestedFactors."""

    factors: FileRange
    table: np.ndarray
    offset: float
    block: int


@dataclass(frozen=True)
class Nf4Matrix:
    """One expert's matrix in files. `block` weights share a factor, a multiple of 64."""

    codes: FileRange
    factors: FileRange
    block: int
    nested: Nested | None = None


class Nf4Stack:
    """Matrices of one kind, one for each expert. See ExpertMatrices."""

    lies_as_read = False

    def __init__(self, shape: tuple[int, int, int], matrices: Sequence[Nf4Matrix]) -> None:
        """`shape` is [experts, rows, cols]; rows are whole blocks."""
        assert shape[0] == len(matrices) and shape[2] % BLOCK == 0
        self.shape = shape
        self.type: BlockType = NF4
        self._matrices = tuple(matrices)
        self._blocks = shape[1] * shape[2] // BLOCK
        # In the room: factors, and factors of factors, then the codes, at least four bytes a block behind its start.
        factors = max(_room(matrix.factors) for matrix in matrices)
        nested = max((_room(matrix.nested.factors) for matrix in matrices if matrix.nested is not None), default=0)
        self._nested_at = factors
        self._codes_at = max(factors + nested, block_ceil((NF4.block_bytes - _CODE_BYTES) * self._blocks))

    @property
    def paths(self) -> list[Path]:
        """See ExpertMatrices.paths."""
        return list(dict.fromkeys(found.path for expert in range(self.shape[0]) for found in self.ranges(expert)))

    @property
    def slab_bytes(self) -> int:
        """See ExpertMatrices.slab_bytes."""
        return self._blocks * NF4.block_bytes

    @property
    def room_bytes(self) -> int:
        """See ExpertMatrices.room_bytes."""
        return self._codes_at + max(_room(matrix.codes) for matrix in self._matrices)

    def start(self, expert: int) -> int:
        """See ExpertMatrices.start."""
        return 0

    def ranges(self, expert: int) -> list[PlacedRange]:
        """See ExpertMatrices.ranges."""
        matrix = self._matrices[expert]
        found = [_placed(matrix.codes, self._codes_at), _placed(matrix.factors, 0)]
        if matrix.nested is not None:
            found.append(_placed(matrix.nested.factors, self._nested_at))
        return found

    def finish(self, expert: int, room: np.ndarray) -> None:
        """See ExpertMatrices.finish."""
        matrix = self._matrices[expert]
        factors = self._factors(matrix, room)
        if not np.isfinite(factors).all():
            raise StoreError(f"{matrix.factors.path} has factors that are NaN or infinite: download it again")
        codes = _read_part(room, matrix.codes, self._codes_at)
        for first in range(0, self._blocks, _BLOCKS_AT_ONCE):
            last = min(first + _BLOCKS_AT_ONCE, self._blocks)
            some = codes[first * _CODE_BYTES : last * _CODE_BYTES].copy()
            to_blocks(some, factors[first:last], room[first * NF4.block_bytes : last * NF4.block_bytes])

    def _factors(self, matrix: Nf4Matrix, room: np.ndarray) -> np.ndarray:
        """Of each 64 weights, float32, in memory of their own."""
        stored, nested = _read_part(room, matrix.factors, 0).copy(), matrix.nested
        if nested is None:
            factors = stored.view(np.float32)
        else:
            own = _read_part(room, nested.factors, self._nested_at).copy().view(np.float32)
            factors = NestedFactors(stored, own, nested.table, nested.offset, nested.block).decode()
        return np.repeat(factors, matrix.block // BLOCK)


def _room(found: FileRange) -> int:
    return block_ceil(found.offset % BLOCK_BYTES + found.nbytes)


def _placed(found: FileRange, place: int) -> PlacedRange:
    return PlacedRange(found.path, found.offset, found.nbytes, place)


def _read_part(room: np.ndarray, found: FileRange, place: int) -> np.ndarray:
    first = place + found.offset % BLOCK_BYTES
    return room[first : first + found.nbytes]
