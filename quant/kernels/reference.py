"""The slowest and simplest kernels: dequantize with the gguf package, then multiply with torch in float32."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.encode.decode import dequantize, dequantize_rows
from quant.kernels import ExpertCall
from quant.kernels.checks import check_experts, check_heads, check_linear, check_rows
from quant.nf4.values import NF4
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType


class ReferenceKernels:
    """Needs torch and gguf alone. Keeps nothing between calls: the weights are decoded anew each time."""

    def __init__(self) -> None:
        self._closed = False

    def serves(self, block: BlockType) -> bool:
        return block in BLOCK_TYPES or block == NF4  # the gguf package decodes all but the last

    def linear(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        self._check_open()
        check_linear(self, x, w)
        return x @ dequantize(w).T

    def linear_heads(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        self._check_open()
        check_heads(self, x, w)
        return torch.einsum("thc,hrc->thr", x, dequantize(w))

    def experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        self._check_open()
        check_experts(self, x, calls)
        total = torch.zeros_like(x)
        for call in calls:
            if not call.tokens.numel():
                continue
            gate, up, down = (dequantize(w) for w in (call.weights.gate, call.weights.up, call.weights.down))
            rows = x[call.tokens]
            result = (silu(rows @ gate.T) * (rows @ up.T)) @ down.T
            total.index_add_(0, call.tokens, result * call.scales[:, None])
        return total

    def rows(self, w: QuantizedTensor, ids: Tensor) -> Tensor:
        self._check_open()
        check_rows(w, ids)
        return dequantize_rows(w, ids)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("these kernels are closed")
