"""A card with kernels of its own, on the processor's memory: bytes go where its table says, and products are right."""

import numpy as np
import pytest
import torch

from offload.kernel_card import KernelCard
from offload.multiply import CardWork, SentWork
from offload.slots import Slot
from quant.errors import StoreError
from quant.kernels import ExpertCall
from quant.kernels.card import make_card_kernels
from tests.offload.tiny_models import TinyModel

SLOTS = 5


@pytest.fixture
def card(k2: TinyModel) -> KernelCard:
    classes, _ = _classes(k2)
    kernels = make_card_kernels("reference")
    return KernelCard("test", torch.device("cpu"), classes, [SLOTS] * len(classes), k2.slabs.layers, kernels)


def _classes(model: TinyModel):
    from offload.slots import classes_of

    return classes_of(model.layout.slot_bytes, model.layout.counts)


def slot_in_ram(model: TinyModel, key: tuple[int, int]) -> np.ndarray:
    """An expert's bytes as the drive would have brought them, with something else around them."""
    slabs = model.slabs.layers[key[0]]
    slot = np.full(slabs.slot_bytes, 255, np.uint8)
    weights = model.model._experts._layers[key[0]].expert(key[1])
    slabs.pack(key[1], weights, slot)
    return slot


def put(model: TinyModel, card: KernelCard, key: tuple[int, int], index: int) -> Slot:
    of_layer = _classes(model)[1]
    slot = Slot(of_layer[key[0]], index)
    card.upload(key, slot_in_ram(model, key), slot)
    return slot


def test_what_goes_to_the_card_comes_back(k2: TinyModel, card: KernelCard) -> None:
    for layer in k2.layers:
        slots = {(layer, expert): put(k2, card, (layer, expert), expert) for expert in range(SLOTS)}
        for key, slot in slots.items():
            back = np.full(k2.slabs.layers[layer].slot_bytes, 255, np.uint8)
            card.download(key, slot, back)
            assert np.array_equal(back, slot_in_ram(k2, key))


@pytest.mark.parametrize("tokens", [1, 4, 20])
def test_products_are_those_of_the_processor(k2: TinyModel, card: KernelCard, tokens: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(tokens, k2.config.hidden_size, generator=generator)
    for layer in k2.layers:
        works, calls = [], []
        for expert in range(SLOTS):
            chosen = torch.arange(tokens)[expert % 3 :: 2]
            if not len(chosen):
                continue
            scales = torch.rand(len(chosen), generator=generator)
            works.append(CardWork((layer, expert), put(k2, card, (layer, expert), expert), chosen, scales))
            weights = k2.model._experts._layers[layer].expert(expert)
            calls.append(ExpertCall(weights, chosen, scales))
        expected = k2.kernels.experts(x, calls)
        before = torch.randn(x.shape, generator=generator)
        found = before.clone()
        card.begin(x, works)(found)
        error = (found - before - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
        assert error < 2e-2  # the processor rounds activations to eight bits


@pytest.mark.parametrize("group", [3, 8])
def test_experts_without_a_slot_are_sent(
    k2: TinyModel, card: KernelCard, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Places for those that are sent are used again and again, and hold nobody else's bytes.
    monkeypatch.setattr("offload.kernel_card._GROUP", group)
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(30, k2.config.hidden_size, generator=generator)
    for layer in k2.layers:
        kept = put(k2, card, (layer, 0), SLOTS - 1)
        works, calls = [], []
        for expert in range(k2.layout.counts[layer]):
            chosen = torch.arange(30)[expert % 4 :: 3]
            scales = torch.rand(len(chosen), generator=generator)
            content = slot_in_ram(k2, (layer, expert))
            works.append(SentWork((layer, expert), lambda content=content: content, chosen, scales))
            weights = k2.model._experts._layers[layer].expert(expert)
            calls.append(ExpertCall(weights, chosen, scales))
        found = torch.zeros(x.shape)
        card.begin_sent(x, works)(found)
        expected = k2.kernels.experts(x, calls)
        assert (found - expected).pow(2).mean().sqrt() < 2e-2 * expected.pow(2).mean().sqrt()
        back = np.full(k2.slabs.layers[layer].slot_bytes, 255, np.uint8)
        card.download((layer, 0), kept, back)
        assert np.array_equal(back, slot_in_ram(k2, (layer, 0)))


def test_what_cannot_be_multiplied_is_refused(k2: TinyModel) -> None:
    class Choosy:
        def serves(self, block: object) -> bool:
            return False

    classes, _ = _classes(k2)
    with pytest.raises(StoreError, match=r"cannot multiply the .* experts of layer 1"):
        KernelCard("test", torch.device("cpu"), classes, [1] * len(classes), k2.slabs.layers, Choosy())  # type: ignore[arg-type]
