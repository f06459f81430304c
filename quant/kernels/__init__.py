"""Multiplication on quantized bytes: what kernels promise, and the implementations by name.

Every product is `x @ w.T` for float32 `x [tokens, cols]` and quantized rows `w [rows, cols]`, both in RAM. The oracle
of all implementations is a float64 product with the dequantized weights; they differ from it by their own tolerance.
"""

import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quant.errors import UnsupportedError
from quant.tensor import QuantizedTensor
from quant.types import BlockType

_EXPERT_RECORD = struct.Struct("=3Q2q3i4x")  # three addresses, ff, hidden, three types


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """One expert's matrices: `gate` and `up` [ff, hidden], `down` [hidden, ff]. Types and addresses are free."""

    gate: QuantizedTensor
    up: QuantizedTensor
    down: QuantizedTensor

    def __post_init__(self) -> None:
        gate, up, down = self.gate.shape, self.up.shape, self.down.shape
        if len(gate) != 2 or gate != up or down != gate[::-1]:
            raise ValueError(
                f"an expert is gate [ff, hidden], up [ff, hidden], down [hidden, ff]: got {gate} {up} {down}"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the three matrices."""
        return self.gate.nbytes + self.up.nbytes + self.down.nbytes

    @functools.cached_property
    def record(self) -> bytes:
        """k2quant_expert of k2quant.h. Holds addresses: to be used while this object is there."""
        gate, up, down = self.gate, self.up, self.down
        types = (w.type.ggml_id for w in (gate, up, down))
        return _EXPERT_RECORD.pack(gate.address, up.address, down.address, *gate.shape, *types)


@dataclass(frozen=True, eq=False)
class ExpertCall:
    """An expert and what it is asked: `tokens` int64 [n], rows of x, and `scales` float32 [n], their weights."""

    weights: ExpertWeights
    tokens: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        count = tuple(self.tokens.shape)
        if len(count) != 1 or tuple(self.scales.shape) != count:
            raise ValueError(
                f"tokens {count} and scales {tuple(self.scales.shape)} must be one list each, of one length"
            )
        if self.tokens.dtype != torch.int64 or self.scales.dtype != torch.float32:
            raise TypeError(f"tokens are int64 and scales float32, got {self.tokens.dtype} and {self.scales.dtype}")


class Kernels(Protocol):
    """Products on quantized bytes. One call at a time; results do not depend on the number of threads.

    Every method raises UnsupportedError for a type that `serves` denies, ValueError or TypeError for shapes, dtypes
    or token numbers that do not fit together, before any weight is touched.
    """

    def serves(self, block: BlockType) -> bool:
        """Whether weights of this type can be multiplied."""

    def linear(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        """x [T, cols] f32, w [rows, cols] -> x @ w.T, [T, rows] f32."""

    def linear_heads(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        """x [T, H, cols] f32, w [H, rows, cols] -> [T, H, rows] f32: each head by its own matrix."""

    def experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        """x [T, hidden] f32 -> [T, hidden] f32: the sum over calls of scale * down(silu(gate x) * up x).

        The sum is taken in the order of `calls`. A token that no call names gets zeros.
        """

    def rows(self, w: QuantizedTensor, ids: Tensor) -> Tensor:
        """Rows of w [rows, cols] by number: int64 [n] -> [n, cols] f32, as an embedding is looked up."""

    def close(self) -> None:
        """End the threads. Safe to call twice; products after it raise RuntimeError."""


def _reference(threads: int, pin: bool) -> Kernels:
    from quant.kernels.reference import ReferenceKernels

    _refuse_to_pin("reference", pin)
    return ReferenceKernels()


def _ggml(threads: int, pin: bool) -> Kernels:
    from quant.kernels.ggml import GgmlKernels

    _refuse_to_pin("ggml", pin)
    return GgmlKernels(threads)


def _native(threads: int, pin: bool) -> Kernels:
    from quant.kernels.native import NativeKernels

    return NativeKernels(threads, pin=pin)


def _refuse_to_pin(name: str, pin: bool) -> None:
    if pin:
        raise UnsupportedError(f"the threads of {name} kernels cannot be pinned: leave out --pin or use native kernels")


# Imported where they are made: the reference works where llama-cpp-python and the native library are not there.
KERNELS: dict[str, Callable[[int, bool], Kernels]] = {"reference": _reference, "ggml": _ggml, "native": _native}


def make_kernels(name: str, threads: int, pin: bool = False) -> Kernels:
    """The implementation called `name`, with `threads` threads in all, the caller's included.

    `pin` keeps every thread but the caller's on a core of its own, which only "native" can do. "reference" has no
    threads of its own: it computes with torch's. Raises UnsupportedError that lists the names.
    """
    if name not in KERNELS:
        raise UnsupportedError(f"unknown kernels {name!r}: known are {', '.join(KERNELS)}")
    if threads < 1:
        raise UnsupportedError(f"{threads} threads cannot compute: give 1 or more")
    return KERNELS[name](threads, pin)
