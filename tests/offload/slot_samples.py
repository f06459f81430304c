"""Layers of random experts of any types, to be put into slots of a card, with what they make of tokens in float64."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from offload.kernel_card import KernelCard
from offload.multiply import CardWork, SentWork
from offload.slabs import LayerSlabs, StackedTensor
from offload.slots import ExpertKey, SizeClass, Slot
from quant.encode.decode import dequantize
from quant.kernels import ExpertWeights
from quant.kernels.card import CardKernels
from quant.nf4.values import NF4, encode_nf4, to_blocks
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type
from tests.quant.kernels.card_samples import random_blocks


class SlotSample:
    """A layer with `count` experts of width `ff`; gate, up and down are of `types`."""

    def __init__(
        self, number: int, types: tuple[str, str, str], ff: int, hidden: int, count: int, fused: bool = False
    ) -> None:
        """`fused` for gate above up in one tensor of the file."""
        self.number, self.count = number, count
        shapes = [(ff, hidden), (ff, hidden), (hidden, ff)]
        blocks = [NF4 if name == "NF4" else block_type(name) for name in types]
        # Each begins somewhere in a file that nobody opens.
        gate, up, down = (
            StackedTensor(Path("none"), offset, block, (count, *shape))
            for offset, block, shape in zip((32, 4096, 96), blocks, shapes, strict=True)
        )
        both = StackedTensor(Path("none"), 64, gate.type, (count, 2 * ff, hidden))
        self.slabs = LayerSlabs((both, down) if fused else (gate, up, down))
        self.matrices = [
            [_weights(b, s, 100 * number + 3 * expert + i) for i, (b, s) in enumerate(zip(blocks, shapes, strict=True))]
            for expert in range(count)
        ]

    def in_ram(self, expert: int) -> np.ndarray:
        """An expert's bytes as the drive would have brought them, with something else around them."""
        slot = np.full(self.slabs.slot_bytes, 255, np.uint8)
        self.slabs.pack(expert, ExpertWeights(*self.matrices[expert]), slot)
        return slot

    def exact(self, x: Tensor, works: Sequence[CardWork] | Sequence[SentWork]) -> Tensor:
        """The weighted sum of x [T, hidden], float64."""
        x, total = x.double(), torch.zeros(x.shape, dtype=torch.float64)
        for work in works:
            gate, up, down = (dequantize(w).double() for w in self.matrices[work.key[1]])
            rows = x[work.tokens]
            total[work.tokens] += work.scales[:, None] * ((silu(rows @ gate.T) * (rows @ up.T)) @ down.T)
        return total

    def works(self, tokens: int, experts: Sequence[int], slot_class: int) -> list[CardWork]:
        """Each of some experts, in the slot of its number, with some of `tokens` tokens."""
        generator, works = torch.Generator().manual_seed(tokens), []
        for expert in experts:
            chosen = torch.arange(tokens)[expert % min(3, tokens) :: 2]
            scales = torch.rand(len(chosen), generator=generator)
            works.append(CardWork((self.number, expert), Slot(slot_class, expert), chosen, scales))
        return works

    def sent(self, works: Sequence[CardWork]) -> list[SentWork]:
        """The same of experts that have no slot."""
        return [SentWork(work.key, self._content(work.key), work.tokens, work.scales) for work in works]

    def _content(self, key: ExpertKey):
        return lambda: self.in_ram(key[1])


def card_with(samples: Sequence[SlotSample], device: torch.device, kernels: CardKernels) -> KernelCard:
    """A card with a slot for every expert of all `samples`, in which they are."""
    sizes = sorted({sample.slabs.slot_bytes for sample in samples})
    counts = [sum(s.count for s in samples if s.slabs.slot_bytes == size) for size in sizes]
    classes = [SizeClass(size, count) for size, count in zip(sizes, counts, strict=True)]
    card = KernelCard("card", device, classes, counts, {s.number: s.slabs for s in samples}, kernels)
    for sample in samples:
        for expert in range(sample.count):
            slot = Slot(card.class_of(sample.number), expert)
            card.upload((sample.number, expert), sample.in_ram(expert), slot)
    return card


def _weights(block: BlockType, shape: tuple[int, int], seed: int) -> QuantizedTensor:
    if block.name not in ("NF4", "BF16"):
        return random_blocks(block, shape, seed)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[1] ** 0.5
    if block.name == "BF16":
        return QuantizedTensor(block, shape, values.bfloat16().view(torch.uint8).flatten().numpy())
    data = np.empty(NF4.nbytes(shape), np.uint8)
    to_blocks(*encode_nf4(values), data)
    return QuantizedTensor(block, shape, data)
