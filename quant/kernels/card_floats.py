"""Card kernels for weights that are plain floats, in front of others for blocks: torch multiplies them as they lie."""

import torch
from torch import Tensor

from quant.kernels.card import CardKernels, CardTensor, SlotTable
from quant.kernels.card_checks import check_heads, check_linear, check_rows
from quant.kernels.card_scratch import PIECE_WEIGHTS
from quant.types import BlockType

# Of a matrix of 16 bits that are float32 at a time: as many bytes as the others' pieces.
_PIECE_VALUES = PIECE_WEIGHTS // 2
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class CardFloats:
    """See CardKernels. Its `experts` are the other kernels'."""

    def __init__(self, blocks: CardKernels) -> None:
        self._blocks = blocks

    def serves(self, block: BlockType) -> bool:
        """See CardKernels.serves."""
        return block.name in _FLOATS or self._blocks.serves(block)

    def serves_experts(self, block: BlockType) -> bool:
        """See CardKernels.serves_experts."""
        return self._blocks.serves_experts(block)

    def linear(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear."""
        if w.type.name not in _FLOATS:
            return self._blocks.linear(x, w)
        check_linear(self, x, w)
        x = x.float()
        if w.type.name == "F32":
            return x @ _plain(w).T
        step = max(1, _PIECE_VALUES // w.cols)
        pieces = _stored(w).split(step)
        return torch.cat([x @ piece.float().T for piece in pieces], dim=1)

    def linear_heads(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear_heads."""
        if w.type.name not in _FLOATS:
            return self._blocks.linear_heads(x, w)
        check_heads(self, x, w)
        return torch.bmm(x.float().transpose(0, 1), _plain(w).transpose(1, 2)).transpose(0, 1)

    def experts(self, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
        """See CardKernels.experts."""
        return self._blocks.experts(x, experts, slots, weights)

    def rows(self, w: CardTensor, ids: Tensor) -> Tensor:
        """See CardKernels.rows."""
        if w.type.name not in _FLOATS:
            return self._blocks.rows(w, ids)
        check_rows(self, w, ids)
        return _stored(w)[ids].float()


def _stored(w: CardTensor) -> Tensor:
    """The weights as they lie."""
    return w.data.view(_FLOATS[w.type.name]).view(w.shape)


def _plain(w: CardTensor) -> Tensor:
    return _stored(w).float()
