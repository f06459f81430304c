"""What every implementation for cards checks before it touches a weight."""

import torch
from torch import Tensor

from quant.errors import UnsupportedError
from quant.kernels.card import CardKernels, CardTensor, SlotTable

_FLOATS = (torch.float32, torch.bfloat16)


def check_linear(kernels: CardKernels, x: Tensor, w: CardTensor) -> None:
    """x [T, cols] against w [rows, cols]."""
    _check_activations(x, 2, w.data)
    _check_weights(kernels, w, 2)
    if x.shape[1] != w.cols:
        raise ValueError(f"x {tuple(x.shape)} does not fit weights {w.shape}: rows of {w.cols} are expected")


def check_heads(kernels: CardKernels, x: Tensor, w: CardTensor) -> None:
    """x [T, H, cols] against w [H, rows, cols]."""
    _check_activations(x, 3, w.data)
    _check_weights(kernels, w, 3)
    if x.shape[1] != w.shape[0] or x.shape[2] != w.cols:
        raise ValueError(f"x {tuple(x.shape)} does not fit weights of {w.shape[0]} heads {w.shape[1:]}")


def check_experts(kernels: CardKernels, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> None:
    """x [T, hidden], slots and weights [T, k] against the table's layout."""
    _check_activations(x, 2, experts.arena)
    for block in (experts.gate_up, experts.down):
        if not kernels.serves_experts(block):
            raise UnsupportedError(_unserved(block))
    if x.shape[1] != experts.hidden:
        raise ValueError(f"x {tuple(x.shape)} does not fit experts whose hidden size is {experts.hidden}")
    if slots.dtype != torch.int32 or weights.dtype != torch.float32:
        raise TypeError(f"slots are int32 and weights float32, got {slots.dtype} and {weights.dtype}")
    if slots.ndim != 2 or slots.shape != weights.shape or slots.shape[0] != x.shape[0]:
        raise ValueError(
            f"slots {tuple(slots.shape)} and weights {tuple(weights.shape)} must both be [{x.shape[0]} tokens, k]"
        )
    if not slots.is_contiguous() or not weights.is_contiguous():
        raise ValueError("slots and weights must be contiguous")
    for tensor in (experts.table, slots, weights):
        _check_device(tensor, experts.arena)


def check_rows(kernels: CardKernels, w: CardTensor, ids: Tensor) -> None:
    """Integer ids [n] against w [rows, cols]."""
    _check_weights(kernels, w, 2)
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(f"rows by {ids.dtype} {tuple(ids.shape)}: int64 [n] is expected")
    _check_device(ids, w.data)


def _check_activations(x: Tensor, dims: int, weights: Tensor) -> None:
    if x.dtype not in _FLOATS:
        raise TypeError(f"activations must be float32 or bfloat16, got {x.dtype}")
    if x.ndim != dims:
        raise ValueError(f"activations must have {dims} dimensions, got {tuple(x.shape)}")
    _check_device(x, weights)


def _check_weights(kernels: CardKernels, w: CardTensor, dims: int) -> None:
    if not kernels.serves(w.type):
        raise UnsupportedError(_unserved(w.type))
    if len(w.shape) != dims or 0 in w.shape:
        raise ValueError(f"weights must have {dims} dimensions of at least 1, got {w.shape}")


def _check_device(tensor: Tensor, weights: Tensor) -> None:
    if tensor.device != weights.device:
        raise ValueError(f"a tensor on {tensor.device} cannot meet weights on {weights.device}")


def _unserved(block: object) -> str:
    return f"card kernels cannot multiply {block} weights: leave them to the processor, or choose another type"
