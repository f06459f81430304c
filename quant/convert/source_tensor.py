"""A tensor of the file to be, and where its values come from: read part by part, never whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from quant.row_shape import RowShaped


@dataclass(frozen=True)
class SourceTensor(RowShaped):
    """Name (as in the output), numpy shape (slowest dimension first), and how a part is read.

    Rows are all dimensions but the last, flattened. Part p holds rows p*part_rows to min((p+1)*part_rows, rows).
    `read(part)` returns float32 values of those rows: any shape whose last dimension is `cols`. `exact` offers, by the
    name of a block type, the part's bytes in that type without any rounding (uint8, rows one after the other). Both
    are called from threads, two at once possible, and raise K2Error when the source fails. Memory follows the part:
    about 16 million weights are a good size.
    """

    name: str
    shape: tuple[int, ...]
    part_rows: int
    read: Callable[[int], Tensor]
    exact: Mapping[str, Callable[[int], np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or self.part_rows < 1:
            raise ValueError(f"{self.name} of shape {self.shape} cannot be read in parts of {self.part_rows} rows")

    @property
    def slabs(self) -> int:
        """Entries of the slowest dimension that have an importance of their own: experts or heads; 1 for a matrix."""
        return self.shape[0] if len(self.shape) > 2 else 1

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.rows // self.part_rows)

    def rows_of(self, part: int) -> range:
        """The rows that a part holds."""
        start = part * self.part_rows
        return range(start, min(start + self.part_rows, self.rows))

    def read_rows(self, part: int) -> Tensor:
        """The values of a part, float32 [rows, cols].

        Raises what `read` raises, and ValueError when it returns something else than it should.
        """
        values, rows = self.read(part), len(self.rows_of(part))
        if values.dtype != torch.float32 or values.numel() != rows * self.cols or values.shape[-1:] != (self.cols,):
            raise ValueError(
                f"part {part} of {self.parts} of {self.name} {self.shape} was read as {values.dtype} of shape "
                f"{tuple(values.shape)} instead of {rows} rows"
            )
        return values.reshape(rows, self.cols)

    def read_exact(self, part: int, type_name: str, row_bytes: int) -> np.ndarray:
        """The bytes of a part in a type of `exact`, [rows, row_bytes]. Raises as `read_rows` does."""
        data, rows = self.exact[type_name](part), len(self.rows_of(part))
        if data.dtype != np.uint8 or data.size != rows * row_bytes:
            raise ValueError(
                f"part {part} of {self.parts} of {self.name} {self.shape} came as {data.nbytes} bytes of {type_name} "
                f"({data.dtype}) instead of {rows} rows of {row_bytes}"
            )
        return data.reshape(rows, row_bytes)
