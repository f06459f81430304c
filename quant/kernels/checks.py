"""What every implementation checks before it touches a weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quant.errors import UnsupportedError
from quant.kernels import ExpertCall, Kernels
from quant.tensor import QuantizedTensor


def check_linear(kernels: Kernels, x: Tensor, w: QuantizedTensor) -> None:
    """x [T, cols] against w [rows, cols]."""
    _check_activations(x, 2)
    _check_weights(kernels, w, 2)
    if x.shape[1] != w.cols:
        raise ValueError(f"x {tuple(x.shape)} does not fit weights {w.shape}: rows of {w.cols} are expected")


def check_heads(kernels: Kernels, x: Tensor, w: QuantizedTensor) -> None:
    """x [T, H, cols] against w [H, rows, cols]."""
    _check_activations(x, 3)
    _check_weights(kernels, w, 3)
    if x.shape[1] != w.shape[0] or x.shape[2] != w.cols:
        raise ValueError(f"x {tuple(x.shape)} does not fit weights of {w.shape[0]} heads {w.shape[1:]}")


def check_experts(kernels: Kernels, x: Tensor, calls: Sequence[ExpertCall]) -> None:
    """x [T, hidden] against every call's matrices and token numbers."""
    _check_activations(x, 2)
    n_tokens, hidden = x.shape
    for index, call in enumerate(calls):
        for w in (call.weights.gate, call.weights.up, call.weights.down):
            _check_weights(kernels, w, 2)
        if call.weights.gate.cols != hidden:
            raise ValueError(
                f"x {tuple(x.shape)} does not fit call {index}, whose hidden size is {call.weights.gate.cols}"
            )
    if not calls:
        return
    tokens = torch.cat([call.tokens for call in calls])
    if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= n_tokens):
        raise ValueError(f"calls name tokens {int(tokens.min())}..{int(tokens.max())} of {n_tokens}")


def check_rows(w: QuantizedTensor, ids: Tensor) -> None:
    """Integer ids [n] against w [rows, cols]; the range is checked where the rows are taken."""
    if len(w.shape) != 2 or ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(f"rows of {w.shape} by {ids.dtype} {tuple(ids.shape)}: expected [rows, cols] and int64 [n]")


def _check_activations(x: Tensor, dims: int) -> None:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise TypeError(f"activations must be float32 in RAM, got {x.dtype} on {x.device}")
    if x.ndim != dims:
        raise ValueError(f"activations must have {dims} dimensions, got {tuple(x.shape)}")


def _check_weights(kernels: Kernels, w: QuantizedTensor, dims: int) -> None:
    if not kernels.serves(w.type):
        raise UnsupportedError(f"these kernels cannot multiply {w.type} weights: choose another type or other kernels")
    if len(w.shape) != dims or 0 in w.shape:
        raise ValueError(f"weights must have {dims} dimensions of at least 1, got {w.shape}")
