"""NF4 beside the types of other kernels: decoded to float32 and multiplied by torch, one matrix after the other.

A GPU's or a native kernel can take this one's place: it is chosen by what the others do not serve.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.encode.decode import dequantize, dequantize_rows
from quant.kernels import ExpertCall, Kernels
from quant.kernels.checks import check_experts, check_heads, check_linear, check_rows
from quant.nf4.values import NF4
from quant.tensor import QuantizedTensor
from quant.types import BlockType

# Decoded weights in memory at a time (64 MiB of float32): one expert's matrix of Kimi K2.
_PIECE_WEIGHTS = 1 << 24


class Nf4Kernels:
    """Multiplies NF4 itself and gives everything else to `inner`, which it owns: `close` closes both."""

    def __init__(self, inner: Kernels) -> None:
        self._inner = inner
        self._closed = False

    def serves(self, block: BlockType) -> bool:
        return block == NF4 or self._inner.serves(block)

    def linear(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        if w.type != NF4:
            return self._inner.linear(x, w)
        self._check_open()
        check_linear(self, x, w)
        return _product(x, w)

    def linear_heads(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        if w.type != NF4:
            return self._inner.linear_heads(x, w)
        self._check_open()
        check_heads(self, x, w)
        return torch.stack([_product(x[:, head], w.slab(head)) for head in range(w.shape[0])], dim=1)

    def experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        self._check_open()
        check_experts(self, x, calls)
        total: Tensor | None = None
        for run, is_ours in _runs(calls):
            part = self._experts(x, run) if is_ours else self._inner.experts(x, run)
            total = part if total is None else total.add_(part)
        return torch.zeros(x.shape) if total is None else total

    def rows(self, w: QuantizedTensor, ids: Tensor) -> Tensor:
        if w.type != NF4:
            return self._inner.rows(w, ids)
        self._check_open()
        check_rows(w, ids)
        return dequantize_rows(w, ids)

    def close(self) -> None:
        self._closed = True
        self._inner.close()

    def _experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        """Experts of which at least one matrix is NF4; the others may be of any type."""
        total = torch.zeros(x.shape)
        for call in calls:
            if not call.tokens.numel():
                continue
            rows, w = x[call.tokens], call.weights
            result = self.linear(silu(self.linear(rows, w.gate)).mul_(self.linear(rows, w.up)), w.down)
            total.index_add_(0, call.tokens, result.mul_(call.scales[:, None]))
        return total

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("these kernels are closed")


def with_nf4(kernels: Kernels) -> Kernels:
    """`kernels`, or what serves NF4 beside their types."""
    return kernels if kernels.serves(NF4) else Nf4Kernels(kernels)


def _product(x: Tensor, w: QuantizedTensor) -> Tensor:
    """x [T, cols] @ w.T, decoding as many rows of w at a time as fit the memory for it."""
    step = max(1, _PIECE_WEIGHTS // w.cols)
    if w.rows <= step:
        return x @ dequantize(w).T
    y = torch.empty(x.shape[0], w.rows)
    for start in range(0, w.rows, step):
        stop = min(start + step, w.rows)
        y[:, start:stop] = x @ dequantize(w.row_range(start, stop)).T
    return y


def _runs(calls: Sequence[ExpertCall]) -> Iterator[tuple[list[ExpertCall], bool]]:
    """Neighbouring calls of one kind, with whether they hold NF4: the sum keeps the order of the calls."""
    run: list[ExpertCall] = []
    kind = False
    for call in calls:
        is_ours = NF4 in (call.weights.gate.type, call.weights.up.type, call.weights.down.type)
        if run and is_ours != kind:
            yield run, kind
            run = []
        run.append(call)
        kind = is_ours
    if run:
        yield run, kind
