"""The card kernels written in Triton: what is launched for which call."""

from pathlib import Path

import torch
import triton
from torch import Tensor

from quant.kernels.card import CardTensor, SlotTable
from quant.kernels.card_checks import check_experts, check_heads, check_linear, check_rows
from quant.kernels.card_scratch import PIECE_WEIGHTS
from quant.kernels.triton.activations import encoded
from quant.kernels.triton.decoders import DECODERS, Decoder
from quant.kernels.triton.expand import expanded, expanded_rows
from quant.kernels.triton.experts import down_kernel, gate_up_kernel, weighted_sum_kernel
from quant.kernels.triton.grouped import many_experts
from quant.kernels.triton.tuning import Cut, Cuts
from quant.kernels.triton.vector import linear_kernel
from quant.types import BlockType

MOST_TOKENS = 8  # multiplied from registers: with more, tensor cores win
_EXPERT_TOKENS = 2  # of one expert at a time; few tokens seldom share one
_SUM_TILE = 1024


class TritonKernels:
    """See CardKernels. `tuning` is a folder for measured cuts of the kernels; without it nothing is measured."""

    def __init__(self, tuning: Path | None = None) -> None:
        self._cuts = Cuts(tuning)

    def serves(self, block: BlockType) -> bool:
        """See CardKernels.serves."""
        return block in DECODERS

    def serves_experts(self, block: BlockType) -> bool:
        """See CardKernels.serves_experts."""
        return self.serves(block)

    def linear(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear."""
        check_linear(self, x, w)
        if x.shape[0] > MOST_TOKENS:
            return _many(x[:, None], w, 1)[:, 0]
        return self._few(x[:, None], w, 1)[:, 0]

    def linear_heads(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear_heads."""
        check_heads(self, x, w)
        if x.shape[0] > MOST_TOKENS:
            return _many(x, w, w.shape[0])
        return self._few(x, w, w.shape[0])

    def experts(self, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
        """See CardKernels.experts. Up to 8 tokens never wait for the device, and can be recorded in a graph."""
        check_experts(self, x, experts, slots, weights)
        if not slots.numel():
            return torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        if x.shape[0] > MOST_TOKENS:
            return many_experts(x, experts, slots, weights)
        return self._few_experts(x, experts, slots, weights)

    def rows(self, w: CardTensor, ids: Tensor) -> Tensor:
        """See CardKernels.rows."""
        check_rows(self, w, ids)
        return expanded_rows(w, ids)

    def _few(self, x: Tensor, w: CardTensor, heads: int) -> Tensor:
        """x [T, heads, cols] -> [T, heads, rows]."""
        tokens, rows, decoder = x.shape[0], w.shape[-2], DECODERS[w.type]
        width = triton.next_power_of_2(tokens)
        y = torch.empty(tokens, heads, rows, dtype=torch.float32, device=x.device)
        if not tokens:
            return y
        records = encoded(x.reshape(tokens * heads, w.cols))

        def run(cut: Cut) -> None:
            grid = (triton.cdiv(rows, cut.rows), heads)
            arguments = _arguments(decoder, w.cols, cut)
            linear_kernel[grid](w.data, records, y, rows, tokens, HEADS=heads, WIDTH=width, **arguments)

        run(self._cuts.choose("linear", decoder, width, w.shape, run))
        return y

    def _few_experts(self, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
        (tokens, used), ff, hidden, device = slots.shape, experts.ff, experts.hidden, x.device
        pairs, width = tokens * used, min(tokens, _EXPERT_TOKENS)
        h = torch.empty(pairs, ff, dtype=torch.float32, device=device)
        parts = torch.empty(pairs, hidden, dtype=torch.float32, device=device)
        y = torch.empty(tokens, hidden, dtype=torch.float32, device=device)
        records = encoded(x)
        shared = {"USED": used, "PAIRS": pairs, "ALL": triton.next_power_of_2(pairs), "WIDTH": width}
        gate_up, down = DECODERS[experts.gate_up], DECODERS[experts.down]

        def run_gate_up(cut: Cut) -> None:
            arguments = _arguments(gate_up, hidden, cut) | shared
            grid = (triton.cdiv(ff, cut.rows), pairs)
            gate_up_kernel[grid](experts.arena, experts.table, slots, records, h, FF=ff, **arguments)

        def run_down(cut: Cut) -> None:
            arguments = _arguments(down, ff, cut) | shared
            grid = (triton.cdiv(hidden, cut.rows), pairs)
            down_kernel[grid](experts.arena, experts.table, slots, h_records, parts, HIDDEN=hidden, **arguments)

        run_gate_up(self._cuts.choose("gate_up", gate_up, width, (pairs, ff, hidden), run_gate_up))
        h_records = encoded(h)
        run_down(self._cuts.choose("down", down, width, (pairs, hidden, ff), run_down))
        weighted_sum_kernel[(triton.cdiv(hidden, _SUM_TILE), tokens)](
            parts, slots, weights, y, hidden, USED=used, TILE=_SUM_TILE, num_warps=4
        )
        return y


def _arguments(decoder: Decoder, cols: int, cut: Cut) -> dict[str, object]:
    """What a kernel of `dot` is compiled for."""
    return decoder.arguments(cols) | {"ROWS": cut.rows, "BLOCKS": cut.of_type(decoder), "num_warps": cut.warps}


def _many(x: Tensor, w: CardTensor, heads: int) -> Tensor:
    """x [T, heads, cols] by tensor cores: pieces of the matrices as bfloat16, then torch's product."""
    rows, cols = w.shape[-2:]
    x = x.bfloat16().transpose(0, 1)  # [heads, T, cols]
    y = torch.empty(x.shape[1], heads, rows, dtype=torch.float32, device=x.device)
    step = max(1, PIECE_WEIGHTS // (heads * cols))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        plain = expanded(w, heads, first, last)
        y[:, :, first:last] = torch.bmm(x, plain.transpose(1, 2)).transpose(0, 1)
        del plain  # before the next piece is made
    return y
