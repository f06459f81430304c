"""Arrays of numbers out of a file's metadata, which stay as small as they are in the file."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_ITERATION_STEP = 4096


class NumberArray(Sequence[Any]):
    """Numbers of one stored type, handed out as Python's int, float or bool. Equal to a list of the same numbers.

    A list would take 40 bytes for what may be one byte in the file. `values` is one-dimensional and not changed.
    """

    __slots__ = ("_values",)

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    @property
    def nbytes(self) -> int:
        return self._values.nbytes

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        """A number, or a list of them for a slice. Raises IndexError."""
        return self._values[index].tolist()

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _ITERATION_STEP):
            yield from self._values[start : start + _ITERATION_STEP].tolist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NumberArray):
            return self._values.dtype == other._values.dtype and np.array_equal(self._values, other._values)
        return isinstance(other, list) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as for a list

    def __repr__(self) -> str:
        return f"NumberArray({self._values!r})"
