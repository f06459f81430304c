"""NF4 experts in a card's slots: laid out there, multiplied by bitsandbytes, and back in RAM as they were."""

import numpy as np
import pytest
import torch

from offload.kernel_card import KernelCard
from offload.slots import Slot
from quant.kernels.card import CardKernels
from quant.kernels.card_floats import CardFloats
from tests.offload.slot_samples import SlotSample, card_with
from tests.quant.kernels.card_samples import BFLOAT16_ERROR, EXPERT_ERROR, FLOAT32_ERROR, random, relative_error

pytestmark = pytest.mark.gpu

FF, HIDDEN, COUNT = 512, 1024, 10


@pytest.fixture(scope="module")
def samples() -> list[SlotSample]:
    return [SlotSample(number, (name,) * 3, FF, HIDDEN, COUNT) for number, name in enumerate(("NF4", "BF16", "Q8_0"))]


@pytest.fixture(scope="module")
def card(samples: list[SlotSample], device: torch.device, kernels: CardKernels) -> KernelCard:
    pytest.importorskip("bitsandbytes")
    from quant.kernels.card_nf4 import CardNf4

    return card_with(samples, device, CardNf4(CardFloats(kernels)))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("tokens", [1, 2, 8, 9, 200])
def test_experts_in_slots_and_experts_that_are_sent(
    samples: list[SlotSample], card: KernelCard, number: int, tokens: int
) -> None:
    sample, x = samples[number], random(tokens, HIDDEN, device=torch.device("cpu"))
    works = sample.works(tokens, range(COUNT), card.class_of(number))
    error = EXPERT_ERROR * (FLOAT32_ERROR if tokens <= 8 else BFLOAT16_ERROR)
    for begin, asked in ((card.begin, works), (card.sending.begin, sample.sent(works))):
        found = torch.zeros(x.shape)
        begin(x, asked)(found)  # type: ignore[operator]
        assert relative_error(found, sample.exact(x, works)) < error


def test_what_goes_to_a_card_comes_back_while_it_computes(samples: list[SlotSample], card: KernelCard) -> None:
    x = random(1, HIDDEN, device=torch.device("cpu"))
    for number, sample in enumerate(samples):
        works, back = sample.works(1, [0], card.class_of(number)), np.empty(sample.slabs.slot_bytes, np.uint8)
        for expert in range(1, COUNT):
            result = card.begin(x, works)
            slot = Slot(card.class_of(number), expert)
            back[:] = 255
            card.download((number, expert), slot, back)
            assert np.array_equal(back, sample.in_ram(expert))
            card.upload((number, expert), back, slot)
            result(torch.zeros(1, HIDDEN))
