"""A card with kernels of its own, on the processor's memory: bytes go where its table says, and products are right."""

import threading

import numpy as np
import pytest
import torch

from offload.card_sending import GROUP
from offload.kernel_card import KernelCard
from offload.multiply import CardWork, SentWork
from offload.slots import Slot
from quant.errors import StoreError
from quant.kernels import ExpertCall
from quant.kernels.card import CardKernels, make_card_kernels
from quant.kernels.card_nf4 import CardNf4
from tests.offload.tiny_models import TinyModel, TinyNf4Model

SLOTS = 5


@pytest.fixture(params=["k2", "nf4"])
def model(request: pytest.FixtureRequest) -> TinyModel:
    """Experts that are multiplied together, and such that are multiplied one by one."""
    found: TinyModel = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def card(model: TinyModel) -> KernelCard:
    classes, _ = _classes(model)
    kernels: CardKernels = make_card_kernels("reference")
    if isinstance(model, TinyNf4Model):
        pytest.importorskip("bitsandbytes")
        kernels = CardNf4(kernels)
    return KernelCard("test", torch.device("cpu"), classes, [SLOTS] * len(classes), model.slabs.layers, kernels)


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


def test_what_goes_to_the_card_comes_back(model: TinyModel, card: KernelCard) -> None:
    for layer in model.layers:
        slots = {(layer, expert): put(model, card, (layer, expert), expert) for expert in range(SLOTS)}
        for key, slot in slots.items():
            back = np.full(model.slabs.layers[layer].slot_bytes, 255, np.uint8)
            card.download(key, slot, back)
            assert np.array_equal(back, slot_in_ram(model, key))


@pytest.mark.parametrize("tokens", [1, 4, 20])
def test_products_are_those_of_the_processor(model: TinyModel, card: KernelCard, tokens: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(tokens, model.config.hidden_size, generator=generator)
    for layer in model.layers:
        works, calls = [], []
        for expert in range(SLOTS):
            chosen = torch.arange(tokens)[expert % 3 :: 2]
            if not len(chosen):
                continue
            scales = torch.rand(len(chosen), generator=generator)
            works.append(CardWork((layer, expert), put(model, card, (layer, expert), expert), chosen, scales))
            weights = model.model._experts._layers[layer].expert(expert)
            calls.append(ExpertCall(weights, chosen, scales))
        expected = model.kernels.experts(x, calls)
        before = torch.randn(x.shape, generator=generator)
        found = before.clone()
        card.begin(x, works)(found)
        error = (found - before - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
        assert error < 2e-2  # the processor rounds activations to eight bits


@pytest.mark.parametrize("group", [3, 8])
def test_experts_without_a_slot_are_sent(
    model: TinyModel, card: KernelCard, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Places for those that are sent are used again and again, and hold nobody else's bytes.
    monkeypatch.setattr("offload.card_sending.GROUP", group)
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(30, model.config.hidden_size, generator=generator)
    for layer in model.layers:
        kept = put(model, card, (layer, 0), SLOTS - 1)
        works, calls = [], []
        for expert in range(model.layout.counts[layer]):
            chosen = torch.arange(30)[expert % 4 :: 3]
            scales = torch.rand(len(chosen), generator=generator)
            content = slot_in_ram(model, (layer, expert))
            works.append(SentWork((layer, expert), lambda content=content: content, chosen, scales))
            weights = model.model._experts._layers[layer].expert(expert)
            calls.append(ExpertCall(weights, chosen, scales))
        found = torch.zeros(x.shape)
        card.sending.begin(x, works)(found)
        expected = model.kernels.experts(x, calls)
        assert (found - expected).pow(2).mean().sqrt() < 2e-2 * expected.pow(2).mean().sqrt()
        back = np.full(model.slabs.layers[layer].slot_bytes, 255, np.uint8)
        card.download((layer, 0), kept, back)
        assert np.array_equal(back, slot_in_ram(model, (layer, 0)))


def test_what_cannot_be_multiplied_is_refused(model: TinyModel) -> None:
    class Choosy:
        def serves(self, block: object) -> bool:
            return False

    classes, _ = _classes(model)
    with pytest.raises(StoreError, match=r"cannot multiply the .* experts of layer 1"):
        KernelCard("test", torch.device("cpu"), classes, [1] * len(classes), model.slabs.layers, Choosy())  # type: ignore[arg-type]


class Prompt:
    """Works of one layer for all its experts, which notes whose bytes were asked for."""

    def __init__(self, model: TinyModel, layer: int, experts: int) -> None:
        generator = torch.Generator().manual_seed(layer)
        self.x = torch.randn(30, model.config.hidden_size, generator=generator)
        self.copied: list[tuple[int, int]] = []
        self.works, calls = [], []
        for expert in range(experts):
            chosen, scales = torch.arange(30)[expert % 4 :: 3], torch.rand(30, generator=generator)
            key = (layer, expert)
            weights = model.model._experts._layers[layer].expert(expert)
            scales = scales[: len(chosen)]
            self.works.append(SentWork(key, self.content(model, key), chosen, scales))
            calls.append(ExpertCall(weights, chosen, scales))
        self.expected = model.kernels.experts(self.x, calls)

    def content(self, model: TinyModel, key: tuple[int, int]):
        def bytes_of() -> np.ndarray:
            self.copied.append(key)
            return slot_in_ram(model, key)

        return bytes_of

    def is_right(self, card: KernelCard) -> bool:
        found = torch.zeros(self.x.shape)
        card.sending.begin(self.x, self.works)(found)
        return bool((found - self.expected).pow(2).mean().sqrt() < 2e-2 * self.expected.pow(2).mean().sqrt())


def test_who_came_ahead_is_multiplied_and_not_copied_again(model: TinyModel, card: KernelCard) -> None:
    for _ in range(3):
        for layer in model.layers:
            count = model.layout.counts[layer]
            prompt = Prompt(model, layer, count - 1)
            ahead = [(layer, expert) for expert in range(1, min(count, 1 + GROUP))]  # perhaps one that nobody wants
            assert card.sending.places_ahead(layer) == GROUP
            card.sending.send_ahead([(key, prompt.content(model, key)) for key in ahead])
            there = wait_for_ahead(card, len(ahead))
            assert there == ahead == prompt.copied
            assert prompt.is_right(card)
            rest = [work.key for work in prompt.works if work.key not in ahead]
            assert prompt.copied == ahead + rest


def wait_for_ahead(card: KernelCard, count: int) -> list[tuple[int, int]]:
    job = card.sending._ahead_job
    assert job is not None
    job.result(timeout=30)
    there = card.sending.end_ahead()
    assert len(there) == count
    return there


def test_lent_slots_are_places_and_come_back(model: TinyModel, card: KernelCard) -> None:
    layer = model.layers[0]
    size_class = card.class_of(layer)
    kept = put(model, card, (layer, 0), 0)
    lent = [Slot(size_class, index) for index in range(1, SLOTS)]
    card.sending.lend(lent)
    assert card.sending.places_ahead(layer) == GROUP + SLOTS - 1 and card.sending.lent == tuple(lent)
    count = model.layout.counts[layer]
    for _ in range(3):
        prompt = Prompt(model, layer, count)
        keys = [work.key for work in prompt.works][: card.sending.places_ahead(layer)]
        card.sending.send_ahead([(key, prompt.content(model, key)) for key in keys])
        wait_for_ahead(card, len(keys))
        assert {slot for slot in card.sending._ahead.values() if slot.index < SLOTS} == set(lent)
        assert prompt.is_right(card)
    assert set(card.sending.take_back()) == set(lent) and card.sending.lent == ()
    assert card.sending.places_ahead(layer) == GROUP and not card.sending._free
    back = np.full(model.slabs.layers[layer].slot_bytes, 255, np.uint8)
    card.download((layer, 0), kept, back)
    assert np.array_equal(back, slot_in_ram(model, (layer, 0)))
    assert Prompt(model, layer, count).is_right(card)


def test_copies_ahead_end_when_they_are_given_up(model: TinyModel, card: KernelCard) -> None:
    layer = model.layers[0]
    begun, go_on, copied = threading.Event(), threading.Event(), []

    def slow(key: tuple[int, int]):
        def bytes_of() -> np.ndarray:
            copied.append(key)
            begun.set()
            assert go_on.wait(30)
            return slot_in_ram(model, key)

        return bytes_of

    card.sending.send_ahead([((layer, expert), slow((layer, expert))) for expert in range(4)])
    assert begun.wait(30)
    threading.Timer(0.05, go_on.set).start()
    card.sending.give_up()
    assert copied == [(layer, 0)]  # who was under way came to its end, and no other began
    assert card.sending.end_ahead() == [] and len(card.sending._staged) == 2 * GROUP
    assert Prompt(model, layer, model.layout.counts[layer]).is_right(card)


def test_a_copy_that_fails_is_told_and_leaves_no_place_taken(model: TinyModel, card: KernelCard) -> None:
    layer = model.layers[0]

    def broken() -> np.ndarray:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    one = torch.tensor([0])
    x = torch.randn(1, model.config.hidden_size)
    add = card.sending.begin(x, [SentWork((layer, 1), broken, one, torch.ones(1))])
    with pytest.raises(torch.AcceleratorError):
        add(torch.zeros(1, model.config.hidden_size))
    assert len(card.sending._staged) == 2 * GROUP
    card.sending.send_ahead([((layer, 1), broken)])
    card.sending._thread.submit(int).result()  # it has failed by now
    with pytest.raises(torch.AcceleratorError):
        card.sending.end_ahead()
    card.sending.give_up()
    assert Prompt(model, layer, model.layout.counts[layer]).is_right(card)


def test_a_card_that_fails_is_named(model: TinyModel, card: KernelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = model.layers[0], torch.randn(1, model.config.hidden_size)
    slot = put(model, card, (layer, 1), 1)

    def fails(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")

    for product in ("experts", "linear"):
        monkeypatch.setattr(card._kernels, product, fails)
    one, told = torch.tensor([0]), "test has failed .*launch failure.*start again without it"
    with pytest.raises(StoreError, match=told):
        card.begin(x, [CardWork((layer, 1), slot, one, torch.ones(1))])
    with pytest.raises(StoreError, match=told):
        card.sending.begin(x, [SentWork((layer, 1), lambda: slot_in_ram(model, (layer, 1)), one, torch.ones(1))])(x)
    monkeypatch.setattr(card._link, "upload", fails)
    with pytest.raises(StoreError, match=told):
        put(model, card, (layer, 1), 1)
    monkeypatch.setattr(card._link, "download", fails)
    with pytest.raises(StoreError, match=told):
        card.download((layer, 1), slot, slot_in_ram(model, (layer, 1)))


def test_parts_that_lie_apart_are_copied_as_a_slot_is(model: TinyModel, card: KernelCard, recwarn: object) -> None:
    for layer in model.layers:
        weights = model.model._experts._layers[layer].expert(2)
        parts = (weights.gate.data, weights.up.data, weights.down.data)
        # A mapped file's cannot be written.
        assert isinstance(model, TinyNf4Model) or not any(part.flags.writeable for part in parts)
        slot = Slot(card.class_of(layer), 1)
        card.copy(card._link, (layer, 2), parts, slot)
        back = np.full(model.slabs.layers[layer].slot_bytes, 255, np.uint8)
        card.download((layer, 2), slot, back)
        assert np.array_equal(back, slot_in_ram(model, (layer, 2)))
    assert not recwarn.list  # type: ignore[attr-defined]
