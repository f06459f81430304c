"""Multiplication on a card: what its kernels promise, what they are given, and the implementations by name.

As `quant.kernels`, with weights and activations in the card's memory. Products are queued on the device's current
stream and return before they are done; nothing waits for the device unless it is said. Arithmetic is float32 for a few
tokens, and bfloat16 products with float32 sums for many.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quant.errors import UnsupportedError
from quant.nf4.values import NF4, set_apart
from quant.row_shape import RowShaped
from quant.tensor import QuantizedTensor
from quant.types import BlockType

ALIGNMENT = 32  # of every matrix in a card's memory, as in the file


@dataclass(frozen=True, eq=False)
class CardTensor(RowShaped):
    """Weights as bytes on a device: `data` is 1-D contiguous uint8 whose address is a multiple of 32.

    NF4's codes and factors lie apart: see quant.nf4.values.set_apart.
    """

    type: BlockType
    shape: tuple[int, ...]
    data: Tensor

    def __post_init__(self) -> None:
        expected = self.type.nbytes(self.shape)
        if self.data.dtype != torch.uint8 or self.data.ndim != 1 or self.data.numel() != expected:
            raise ValueError(
                f"{self.type} tensor of shape {self.shape} takes {expected} bytes as 1-D uint8, "
                f"got {self.data.dtype} of shape {tuple(self.data.shape)}"
            )
        if self.data.data_ptr() % ALIGNMENT or not self.data.is_contiguous():
            raise ValueError(f"weights on a card lie contiguous on a multiple of {ALIGNMENT} bytes")

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.type.row_bytes(self.cols)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.data.numel()


@dataclass(frozen=True, eq=False)
class SlotTable:
    """Where experts of one layout lie in a card's arena.

    `arena` is 1-D uint8 on the device. Row s of `table`, int64 [slots, 3] on the device, holds where gate, up and down
    of slot s start: bytes from the arena's start, whose addresses are multiples of 32. `gate_up` is the type of gate
    and up [ff, hidden], `down` that of down [hidden, ff]. The owner may rewrite rows of slots that no queued product
    names; the kernels look at the table when they run, not when they are called.
    """

    arena: Tensor
    table: Tensor
    gate_up: BlockType
    down: BlockType
    ff: int
    hidden: int

    def __post_init__(self) -> None:
        if self.arena.dtype != torch.uint8 or self.arena.ndim != 1:
            raise TypeError(f"an arena is 1-D uint8, got {self.arena.dtype} {tuple(self.arena.shape)}")
        if self.table.dtype != torch.int64 or self.table.ndim != 2 or self.table.shape[1] != 3:
            raise TypeError(f"a slot table is int64 [slots, 3], got {self.table.dtype} {tuple(self.table.shape)}")
        if self.arena.data_ptr() % ALIGNMENT or not self.table.is_contiguous():
            raise ValueError(f"an arena starts on a multiple of {ALIGNMENT} bytes, and its table is contiguous")
        self.gate_up.row_bytes(self.hidden)
        self.down.row_bytes(self.ff)

    @property
    def gate_bytes(self) -> int:
        """Bytes of one gate or up matrix."""
        return self.gate_up.nbytes((self.ff, self.hidden))

    @property
    def down_bytes(self) -> int:
        """Bytes of one down matrix."""
        return self.down.nbytes((self.hidden, self.ff))


class CardKernels(Protocol):
    """Products on quantized bytes in a card's memory. Activations are float32 or bfloat16, results float32.

    Every method raises UnsupportedError for a type that `serves` or `serves_experts` denies, ValueError or TypeError
    for shapes, dtypes or devices that do not fit together. Results do not depend on what else runs: no sum is taken by
    atomics.
    """

    def serves(self, block: BlockType) -> bool:
        """Whether weights of this type can be multiplied, by `linear` and its like."""

    def serves_experts(self, block: BlockType) -> bool:
        """Whether `experts` takes them too. For other types there is quant.kernels.card_one_by_one."""

    def linear(self, x: Tensor, w: CardTensor) -> Tensor:
        """x [T, cols], w [rows, cols] -> x @ w.T, [T, rows]."""

    def linear_heads(self, x: Tensor, w: CardTensor) -> Tensor:
        """x [T, H, cols], w [H, rows, cols] -> [T, H, rows]: each head by its own matrix."""

    def experts(self, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
        """x [T, hidden] -> [T, hidden]: the sum over i of weights[t, i] * expert(slots[t, i]) of x[t].

        `slots` int32 [T, k] and `weights` float32 [T, k] lie on the device. A negative slot is an expert that is not
        here and adds nothing; a slot comes at most once in a row. Slots are not checked against the table: the caller
        answers for them. With many tokens this waits for the device once, to learn how many each slot has.
        """

    def rows(self, w: CardTensor, ids: Tensor) -> Tensor:
        """Rows of w [rows, cols] by number: int64 [n] on the device, not checked -> [n, cols] float32."""


def upload(w: QuantizedTensor, device: torch.device) -> CardTensor:
    """A copy of the weights in the device's memory. NF4 lies there as `set_apart` has it."""
    data = torch.empty(w.nbytes, dtype=torch.uint8, device=device)
    data.copy_(torch.from_numpy(w.data if w.data.flags.writeable else w.data.copy()))
    return CardTensor(w.type, w.shape, set_apart(data) if w.type == NF4 else data)


def _triton() -> CardKernels:
    from quant.kernels.triton.kernels import TritonKernels

    return TritonKernels()


def _reference() -> CardKernels:
    from quant.kernels.card_reference import ReferenceCardKernels

    return ReferenceCardKernels()


# Imported where they are made: the reference works where Triton is not there, and on the processor's memory too.
CARD_KERNELS: dict[str, Callable[[], CardKernels]] = {"triton": _triton, "reference": _reference}


def make_card_kernels(name: str) -> CardKernels:
    """The implementation called `name`. Raises UnsupportedError that lists the names, or says what is missing."""
    if name not in CARD_KERNELS:
        raise UnsupportedError(f"unknown card kernels {name!r}: known are {', '.join(CARD_KERNELS)}")
    return CARD_KERNELS[name]()
