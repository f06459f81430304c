"""How one tensor of the output is written: its size, its encoder, and the way back for verification."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from quant.encode.decode import dequantize
from quant.encode.encode import encode
from quant.tensor import QuantizedTensor
from quant.types import BlockType

Encoder = Callable[[Tensor, BlockType, Tensor | None], np.ndarray]


class Codec(Protocol):
    """A way to write a tensor as bytes. Safe to use from several threads at once."""

    @property
    def name(self) -> str:
        """What progress and report call it, as "Q4_K" or "NF4"."""

    @property
    def splits_rows(self) -> bool:
        """Whether rows may be encoded in runs, whose bytes then follow each other. Else `encode` gets all rows."""

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor without padding. Raises UnsupportedError for a shape that it cannot write."""

    def encode(self, rows: Tensor, importance: Tensor | None) -> np.ndarray:
        """float32 [rows, cols] -> one-dimensional uint8. `importance` is float32 [cols]. Raises EncodeError."""

    def decode(self, data: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """Bytes of a whole tensor, or of a run of rows where `splits_rows`, -> float32 of `shape`."""


@dataclass(frozen=True)
class BlockCodec:
    """A block type of GGUF files. `encoder` is quant.encode.encode's unless a test brings its own."""

    type: BlockType
    encoder: Encoder = encode

    @property
    def name(self) -> str:
        """Name of the block type."""
        return self.type.name

    @property
    def splits_rows(self) -> bool:
        """Blocks never cross rows."""
        return True

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes without padding. Raises UnsupportedError when the blocks do not divide the rows."""
        return self.type.nbytes(shape)

    def encode(self, rows: Tensor, importance: Tensor | None) -> np.ndarray:
        """See Codec."""
        return self.encoder(rows, self.type, importance)

    def decode(self, data: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """See Codec."""
        return dequantize(QuantizedTensor(self.type, shape, data))
