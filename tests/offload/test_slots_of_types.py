"""One card with layers of different types: some multiplied together, some one by one, each from its own slots."""

import numpy as np
import pytest
import torch

from offload.kernel_card import KernelCard
from offload.slots import Slot
from quant.errors import StoreError
from quant.kernels.card import CardKernels, CardTensor, SlotTable, make_card_kernels
from quant.kernels.card_floats import CardFloats
from quant.kernels.card_nf4 import CardNf4
from quant.types import BlockType
from tests.offload.slot_samples import SlotSample, card_with
from tests.quant.kernels.card_samples import random, relative_error

FF, HIDDEN, COUNT = 64, 128, 5
TYPES = [("Q8_0",) * 3, ("NF4",) * 3, ("BF16",) * 3, ("NF4", "NF4", "BF16")]


class BlocksOnly:
    """The reference's kernels, which take experts of blocks together as Triton's do, and no plain floats."""

    def __init__(self) -> None:
        self._inner = make_card_kernels("reference")
        self.grouped = 0

    def serves(self, block: BlockType) -> bool:
        return block.name in ("Q8_0", "Q4_0")

    serves_experts = serves

    def linear(self, x: torch.Tensor, w: CardTensor) -> torch.Tensor:
        return self._inner.linear(x, w)

    def experts(self, x: torch.Tensor, experts: SlotTable, slots: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        self.grouped += 1
        return self._inner.experts(x, experts, slots, weights)


@pytest.fixture(scope="module")
def samples() -> list[SlotSample]:
    return [SlotSample(number, types, FF, HIDDEN, COUNT) for number, types in enumerate(TYPES)]


@pytest.fixture(scope="module")
def blocks() -> BlocksOnly:
    return BlocksOnly()


@pytest.fixture(scope="module")
def card(samples: list[SlotSample], blocks: BlocksOnly) -> KernelCard:
    pytest.importorskip("bitsandbytes")
    kernels: CardKernels = CardNf4(CardFloats(blocks))  # type: ignore[arg-type]
    return card_with(samples, torch.device("cpu"), kernels)


@pytest.mark.parametrize("tokens", [1, 8, 50])
@pytest.mark.parametrize("number", range(4))
def test_every_layer_finds_its_experts(
    samples: list[SlotSample], card: KernelCard, blocks: BlocksOnly, number: int, tokens: int
) -> None:
    sample, before = samples[number], blocks.grouped
    x = random(tokens, HIDDEN, device=torch.device("cpu"))
    for experts in (range(COUNT), range(1, COUNT, 2)):
        works = sample.works(tokens, experts, card.class_of(number))
        for begin, asked in ((card.begin, works), (card.sending.begin, sample.sent(works))):
            found = torch.zeros(x.shape)
            begin(x, asked)(found)  # type: ignore[operator]
            assert relative_error(found, sample.exact(x, works)) < 1e-5
    assert (blocks.grouped > before) == (number == 0)


@pytest.mark.parametrize("number", range(4))
def test_every_expert_comes_back(samples: list[SlotSample], card: KernelCard, number: int) -> None:
    for expert in range(COUNT):
        back = np.full(samples[number].slabs.slot_bytes, 255, np.uint8)
        card.download((number, expert), Slot(card.class_of(number), expert), back)
        assert np.array_equal(back, samples[number].in_ram(expert))


def test_gate_and_up_of_two_types_are_refused(blocks: BlocksOnly) -> None:
    sample = SlotSample(4, ("Q8_0", "Q4_0", "Q8_0"), FF, HIDDEN, COUNT)
    with pytest.raises(StoreError, match="cannot take the experts of layer 4 as they lie"):
        card_with([sample], torch.device("cpu"), blocks)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Q8_0", "BF16"])
def test_gate_above_up_in_one_tensor(blocks: BlocksOnly, name: str) -> None:
    sample = SlotSample(5, (name,) * 3, FF, HIDDEN, COUNT, fused=True)
    card = card_with([sample], torch.device("cpu"), CardFloats(blocks))  # type: ignore[arg-type]
    x, works = random(3, HIDDEN, device=torch.device("cpu")), sample.works(3, range(COUNT), 0)
    for begin, asked in ((card.begin, works), (card.sending.begin, sample.sent(works))):
        found = torch.zeros(x.shape)
        begin(x, asked)(found)  # type: ignore[operator]
        assert relative_error(found, sample.exact(x, works)) < 1e-5
    for expert in range(COUNT):
        back = np.full(sample.slabs.slot_bytes, 255, np.uint8)
        card.download((5, expert), Slot(0, expert), back)
        assert np.array_equal(back, sample.in_ram(expert))


def test_the_host_is_asked_for_experts_that_only_it_can_launch(samples: list[SlotSample], card: KernelCard) -> None:
    assert [card.share(number) is not None for number in range(4)] == [True, False, False, False]
    sample, x = samples[0], random(1, HIDDEN, device=torch.device("cpu"))
    works = sample.works(1, [1, 3], card.class_of(0))
    for expert in (1, 3):
        card.moved((0, expert), Slot(card.class_of(0), expert))
    share = card.share(0)
    assert share is not None
    found = share(x, torch.tensor([[3, 2, 1]]), torch.tensor([[works[1].scales[0], 1.0, works[0].scales[0]]]))
    assert relative_error(found, sample.exact(x, works)) < 1e-5
