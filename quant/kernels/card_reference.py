"""The slowest and simplest kernels for cards: dequantize with the gguf package, then multiply with torch in float32."""

import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.encode.decode import dequantize
from quant.kernels.card import CardTensor, SlotTable
from quant.kernels.card_checks import check_experts, check_heads, check_linear, check_rows
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType


class ReferenceCardKernels:
    """Needs torch and gguf alone, and works on any device: weights are copied to the host to be decoded."""

    def serves(self, block: BlockType) -> bool:
        """See CardKernels.serves."""
        return block in BLOCK_TYPES

    def serves_experts(self, block: BlockType) -> bool:
        """See CardKernels.serves_experts."""
        return self.serves(block)

    def linear(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear."""
        check_linear(self, x, w)
        return x.float() @ _decoded(w.type, w.shape, w.data).T

    def linear_heads(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear_heads."""
        check_heads(self, x, w)
        return torch.einsum("thc,hrc->thr", x.float(), _decoded(w.type, w.shape, w.data))

    def experts(self, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
        """See CardKernels.experts."""
        check_experts(self, x, experts, slots, weights)
        total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for slot in sorted({slot for slot in slots.flatten().tolist() if slot >= 0}):
            tokens, place = (slots == slot).nonzero(as_tuple=True)
            gate, up, down = _matrices(experts, slot)
            rows = x[tokens].float()
            result = (silu(rows @ gate.T) * (rows @ up.T)) @ down.T
            total.index_add_(0, tokens, result * weights[tokens, place, None])
        return total

    def rows(self, w: CardTensor, ids: Tensor) -> Tensor:
        """See CardKernels.rows."""
        check_rows(self, w, ids)
        return _decoded(w.type, w.shape, w.data)[ids]


def _matrices(experts: SlotTable, slot: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gate, up and down of a slot, decoded."""
    narrow, wide = (experts.ff, experts.hidden), (experts.hidden, experts.ff)
    gate, up, down = experts.table[slot].tolist()
    return (
        _decoded(experts.gate_up, narrow, experts.arena[gate : gate + experts.gate_bytes]),
        _decoded(experts.gate_up, narrow, experts.arena[up : up + experts.gate_bytes]),
        _decoded(experts.down, wide, experts.arena[down : down + experts.down_bytes]),
    )


def _decoded(block: BlockType, shape: tuple[int, ...], data: Tensor) -> Tensor:
    return dequantize(QuantizedTensor(block, shape, data.cpu().numpy())).to(data.device)
