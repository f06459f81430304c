"""Where the experts of a layer lie, as native code reads it: a table in which they come and go."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from quant.kernels import ExpertWeights
from quant.types import BlockType

# k2quant_expert of k2quant.h.
_RECORD = np.dtype(
    [
        *((name, np.uint64) for name in ("gate", "up", "down")),
        *((name, np.int64) for name in ("ff", "hidden")),
        ("types", np.int32, 3),
        ("elsewhere", np.int32),
    ]
)

_MISSING, _HERE, _ELSEWHERE = range(3)


class ExpertRecords:
    """A k2quant_expert for each expert of a layer, all of the same `types`; those that are not here have no addresses.

    Owned by the thread that computes.
    """

    def __init__(self, experts: int, types: Iterable[BlockType]) -> None:
        self.types = frozenset(types)
        self.rows: np.ndarray[Any, Any] = np.zeros(experts, _RECORD)
        self.address = self.rows.ctypes.data
        self._kept: list[ExpertWeights | None] = [None] * experts  # whose addresses are there
        self._states = bytearray(experts)

    @classmethod
    def in_steps(cls, first: ExpertWeights, experts: int, step_bytes: tuple[int, int, int]) -> "ExpertRecords":
        """All of one shape, at equal distances: the `first`, and bytes from each gate, up and down to the next one."""
        records = cls(experts, (first.gate.type, first.up.type, first.down.type))
        records.rows[:] = _row(first)
        for name, step in zip(("gate", "up", "down"), step_bytes, strict=True):
            records.rows[name] += np.arange(experts, dtype=np.uint64) * np.uint64(step)
        records._kept[0] = first
        records._states = bytearray([_HERE]) * experts
        return records

    @classmethod
    def one(cls, weights: ExpertWeights) -> "ExpertRecords":
        """A single block."""
        return cls.in_steps(weights, 1, (0, 0, 0))

    @property
    def count(self) -> int:
        """How many experts there are, here or not."""
        return len(self.rows)

    def has(self, experts: Iterable[int], or_elsewhere: bool = False) -> bool:
        """Whether all of them are here, or with `or_elsewhere` where another device multiplies them."""
        states = self._states
        if or_elsewhere:
            return all(states[expert] for expert in experts)
        return all(states[expert] == _HERE for expert in experts)

    @property
    def is_full(self) -> bool:
        """Whether none is missing."""
        return self._states.count(_HERE) == len(self._states)

    def put(self, expert: int, weights: ExpertWeights) -> None:
        """It is here now. `weights` are kept alive."""
        self.rows[expert] = _row(weights)
        self._kept[expert] = weights
        self._states[expert] = _HERE

    def remove(self, expert: int, elsewhere: bool = False) -> None:
        """It is not here any more; perhaps `elsewhere`, where another device multiplies it."""
        self.rows[expert] = 0
        self.rows["elsewhere"][expert] = elsewhere
        self._kept[expert] = None
        self._states[expert] = _ELSEWHERE if elsewhere else _MISSING


def _row(weights: ExpertWeights) -> Any:
    return np.frombuffer(weights.record, _RECORD)[0]
