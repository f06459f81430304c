"""The table of block types: how many weights share a block, and how many bytes the block takes.

Source: ggml's own table of types, which is compared with this one when the library is loaded (`quant.ggml_library`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quant.errors import UnsupportedError


@dataclass(frozen=True)
class BlockType:
    """One tensor type of a GGUF file. `block_weights` consecutive weights of a row take `block_bytes` bytes."""

    name: str
    ggml_id: int
    block_weights: int
    block_bytes: int

    def row_bytes(self, cols: int) -> int:
        """Bytes of one row of `cols` weights. Raises UnsupportedError when the blocks do not divide the row."""
        if cols % self.block_weights:
            raise UnsupportedError(
                f"a row of {cols} weights is not a multiple of {self.name}'s block of {self.block_weights}: "
                "choose another type for this tensor"
            )
        return cols // self.block_weights * self.block_bytes

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of numpy shape `shape`, without padding. Raises UnsupportedError as `row_bytes` does."""
        return math.prod(shape[:-1]) * self.row_bytes(shape[-1])

    def fits(self, cols: int) -> bool:
        """Whether a row of `cols` weights is a whole number of blocks."""
        return cols % self.block_weights == 0

    def __str__(self) -> str:
        return self.name


BLOCK_TYPES: tuple[BlockType, ...] = (
    BlockType("F32", 0, 1, 4),
    BlockType("F16", 1, 1, 2),
    BlockType("Q4_0", 2, 32, 18),
    BlockType("Q4_1", 3, 32, 20),
    BlockType("Q5_0", 6, 32, 22),
    BlockType("Q5_1", 7, 32, 24),
    BlockType("Q8_0", 8, 32, 34),
    BlockType("Q2_K", 10, 256, 84),
    BlockType("Q3_K", 11, 256, 110),
    BlockType("Q4_K", 12, 256, 144),
    BlockType("Q5_K", 13, 256, 176),
    BlockType("Q6_K", 14, 256, 210),
    BlockType("IQ2_XXS", 16, 256, 66),
    BlockType("IQ2_XS", 17, 256, 74),
    BlockType("IQ3_XXS", 18, 256, 98),
    BlockType("IQ1_S", 19, 256, 50),
    BlockType("IQ4_NL", 20, 32, 18),
    BlockType("IQ3_S", 21, 256, 110),
    BlockType("IQ2_S", 22, 256, 82),
    BlockType("IQ4_XS", 23, 256, 136),
    BlockType("IQ1_M", 29, 256, 56),
    BlockType("BF16", 30, 1, 2),
    BlockType("TQ1_0", 34, 256, 54),
    BlockType("TQ2_0", 35, 256, 66),
    BlockType("MXFP4", 39, 32, 17),
)

_BY_NAME = {t.name: t for t in BLOCK_TYPES}
_BY_ID = {t.ggml_id: t for t in BLOCK_TYPES}


def block_type(name: str) -> BlockType:
    """The type called `name`, as in "Q4_K". Raises UnsupportedError that lists the known names."""
    if name not in _BY_NAME:
        raise UnsupportedError(f"unknown tensor type {name!r}: known are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def block_type_by_id(ggml_id: int) -> BlockType:
    """The type with ggml's number `ggml_id`. Raises UnsupportedError for a number that is not in the table."""
    if ggml_id not in _BY_ID:
        raise UnsupportedError(f"tensor type number {ggml_id} is not known: the file may be newer than this k2lite")
    return _BY_ID[ggml_id]
