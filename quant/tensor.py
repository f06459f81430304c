"""A tensor whose values stay in their blocks: a type, a shape and the raw bytes."""

from dataclasses import dataclass

import numpy as np

from quant.row_shape import RowShaped
from quant.types import BlockType


@dataclass(frozen=True, eq=False)
class QuantizedTensor(RowShaped):
    """Weights as bytes. `shape` is in numpy order (slowest first), the last dimension is the row that blocks divide.

    `data` is one-dimensional, contiguous uint8 of exactly the tensor's size. It may be a read-only view of a mapped
    file, and its address is aligned to no more than 32 bytes.
    """

    type: BlockType
    shape: tuple[int, ...]
    data: np.ndarray

    def __post_init__(self) -> None:
        expected = self.type.nbytes(self.shape)
        if self.data.dtype != np.uint8 or self.data.ndim != 1 or self.data.size != expected:
            raise ValueError(
                f"{self.type} tensor of shape {self.shape} takes {expected} bytes as 1-D uint8, "
                f"got {self.data.dtype} of shape {self.data.shape}"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.type.row_bytes(self.cols)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.data.size

    @property
    def address(self) -> int:
        """Where the first byte lies. Valid as long as `data` is alive."""
        return self.data.ctypes.data

    def slab(self, index: int) -> "QuantizedTensor":
        """Entry `index` of the slowest dimension, without a copy: one expert, one head or one row."""
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"slab {index} of a tensor of shape {self.shape}")
        size = self.nbytes // self.shape[0]
        return QuantizedTensor(self.type, self.shape[1:], self.data[index * size : (index + 1) * size])

    def row_range(self, start: int, stop: int) -> "QuantizedTensor":
        """Rows start to stop (of all leading dimensions together) as a two-dimensional view."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start}:{stop} of {self.rows}")
        data = self.data[start * self.row_bytes : stop * self.row_bytes]
        return QuantizedTensor(self.type, (stop - start, self.cols), data)
