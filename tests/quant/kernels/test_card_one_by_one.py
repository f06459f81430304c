"""Experts one after the other, beside float64 ones of what is decoded here: NF4, plain floats, and both."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.encode.decode import dequantize
from quant.kernels.card import CardKernels, CardTensor, make_card_kernels, upload
from quant.kernels.card_floats import CardFloats
from quant.kernels.card_nf4 import CardNf4
from quant.kernels.card_one_by_one import CardExpert, experts_one_by_one
from quant.tensor import QuantizedTensor
from quant.types import block_type
from tests.quant.kernels.card_samples import random, random_slots, relative_error, routed
from tests.quant.kernels.test_card_nf4 import sample as nf4_sample

CPU = torch.device("cpu")
FF, HIDDEN, COUNT = 64, 128, 6


def bfloats(*shape: int) -> QuantizedTensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])).bfloat16()
    return QuantizedTensor(block_type("BF16"), shape, values.view(torch.uint8).flatten().numpy())


SAMPLES = {"NF4": nf4_sample, "BF16": bfloats}


@pytest.fixture(scope="module")
def kernels() -> CardKernels:
    pytest.importorskip("bitsandbytes")
    return CardNf4(CardFloats(make_card_kernels("reference")))


class Experts:
    """A few experts, the same matrices in other orders of rows, and who was asked for."""

    def __init__(self, gate_up: str, down: str) -> None:
        self.asked: list[int] = []
        self.matrices = [
            [turned(SAMPLES[gate_up](2 * FF, HIDDEN), number), turned(SAMPLES[down](HIDDEN, FF), number)]
            for number in range(COUNT)
        ]

    def expert(self, slot: int) -> CardExpert:
        self.asked.append(slot)
        return CardExpert(*(upload(w, CPU) for w in self.matrices[slot]))

    def exact(self, x: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros(x.shape, dtype=torch.float64)
        for token, (row, scales) in enumerate(zip(slots.tolist(), weights.tolist(), strict=True)):
            for slot, scale in zip(row, scales, strict=True):
                if slot >= 0:
                    gate_up, down = (dequantize(w).double() for w in self.matrices[slot])
                    gate, up = gate_up.chunk(2)
                    total[token] += scale * (down @ (silu(gate @ x[token].double()) * (up @ x[token].double())))
        return total


def turned(w: QuantizedTensor, rows: int) -> QuantizedTensor:
    step = w.type.row_bytes(w.cols) * (rows % w.rows)
    return QuantizedTensor(w.type, w.shape, torch.from_numpy(w.data.copy()).roll(step).numpy())


@pytest.mark.parametrize("types", [("NF4", "NF4"), ("BF16", "BF16"), ("NF4", "BF16")])
@pytest.mark.parametrize("tokens", [1, 2, 8, 50])
def test_sums_are_those_of_the_decoded_weights(kernels: CardKernels, types: tuple[str, str], tokens: int) -> None:
    experts = Experts(*types)
    x = random(tokens, HIDDEN, device=CPU)
    slots, weights = routed(random_slots(tokens, 4, COUNT, absent=3), CPU)
    found = experts_one_by_one(kernels, x, experts.expert, slots, weights, lambda values: values)
    assert relative_error(found, experts.exact(x, slots, weights)) < 1e-6
    assert sorted(experts.asked) == sorted({slot for slot in slots.flatten().tolist() if slot >= 0})


@pytest.mark.parametrize("tokens", [1, 5])
def test_who_is_not_here_adds_nothing(kernels: CardKernels, tokens: int) -> None:
    experts = Experts("NF4", "NF4")
    slots, weights = routed([[-1, -1]] * tokens, CPU)
    x = random(tokens, HIDDEN, device=CPU)
    found = experts_one_by_one(kernels, x, experts.expert, slots, weights, lambda values: values)
    assert torch.equal(found, torch.zeros(tokens, HIDDEN)) and not experts.asked


def test_kernels_tell_which_experts_they_take_together(kernels: CardKernels) -> None:
    assert kernels.serves(block_type("BF16")) and kernels.serves_experts(block_type("Q8_0"))
    w: CardTensor = upload(nf4_sample(FF, HIDDEN), CPU)
    assert kernels.serves(w.type) and not kernels.serves_experts(w.type)
