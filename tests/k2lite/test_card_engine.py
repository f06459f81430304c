"""A whole model on cards with kernels of their own, made of the processor's memory: layers, slots, sent experts."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite.card_layer import CardLayer
from k2lite.card_placement import place_on_cards
from k2lite.config_gguf import config_from_gguf
from k2lite.load import LoadedModel, load_model
from k2lite.model_bytes import model_bytes_of_file
from k2lite.own_memory import PromptMemory
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from offload import card_devices
from offload.dispatch import MeasuredSpeeds
from offload.machine import CARD_RESERVE
from offload.memory_options import CardSpec, MemoryOptions
from offload.placement import place_layers
from offload.residency import DRIVE
from offload.slots import ExpertKey
from offload.state import Stopped
from offload.tiers import Tiers
from quant.errors import RequestError
from quant.gguf.gguf_file import GgufFile
from tests.k2lite.simulated_cards import buffer_bytes, simulate_cards
from tests.k2lite.test_recording import BrokenRecorder
from tests.tiny import write_checkpoint

CONTEXT = 256
CARDS = (CardSpec("cuda", None, None),)
ERROR = 3e-2  # the processor rounds activations to eight bits


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that adds little to its stream, so that rounding changes no routing."""
    folder = tmp_path_factory.mktemp("cards")
    write_checkpoint(folder / "k2", "k2", layers=5, experts=24, update_gain=0.1)
    quantize(folder / "k2", folder / "k2.gguf", QuantizeOptions("Q8_0"), threads=2)
    return folder / "k2.gguf"


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch, path: Path) -> int:
    """Two cards that have, besides what is kept free, room for a third of the model each."""
    return simulate_cards(monkeypatch, 2, path.stat().st_size // 3, buffer_bytes(path, CONTEXT))


@pytest.fixture
def expected(path: Path) -> Iterator[Tensor]:
    loaded = load_model(path, threads=2)
    yield logits(loaded)
    loaded.close()


def logits(loaded: LoadedModel) -> Tensor:
    """Of a prompt in two chunks, and of tokens one by one."""
    ids = torch.randint(500, (120,), generator=torch.Generator().manual_seed(5))
    cache = loaded.model.new_cache(CONTEXT)
    return torch.cat([loaded.model.forward(part, cache, last_only=False) for part in ids.split([60, 40, *[1] * 20])])


def budget_of(path: Path, share: float | None) -> int | None:
    """RAM for a share of the model, and for what is on its way to two cards."""
    if share is None:
        return None
    with GgufFile.open(path) as file:
        config = config_from_gguf(file.metadata)
    with_cards, without = (PromptMemory(config, 1, cards).bytes_of(512) for cards in (2, 0))
    return int(path.stat().st_size * share) + with_cards - without


def close_to(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).pow(2).mean().sqrt() < ERROR * expected.pow(2).mean().sqrt())


@pytest.mark.parametrize("ram_share", [None, 0.5])
def test_a_model_on_two_cards(two_cards: int, path: Path, expected: Tensor, ram_share: float | None) -> None:
    memory = MemoryOptions(budget_of(path, ram_share), CARDS, context_tokens=CONTEXT)
    loaded = load_model(path, threads=2, memory=memory)
    try:
        assert {type(layer) for layer in loaded.model._layers} == {CardLayer}
        assert loaded.model.prefill_tokens == 512  # no more than the context needs
        found = [logits(loaded) for _ in range(3)]  # in the later ones experts have come to the cards
        tiers = loaded.model._experts._tiers  # type: ignore[attr-defined]
        assert not any(
            tiers.residency._table((layer, expert)).is_pinned((layer, expert))
            for layer, facts in tiers.layers.items()
            for expert in range(facts.experts)
            if tiers.residency.place((layer, expert)) != DRIVE and not tiers.pool._under_way
        )
        counters = loaded.model.counters()
    finally:
        loaded.close()
    assert all(close_to(logits, expected) for logits in found)
    assert counters["card0_experts"] and counters["card1_experts"]


def test_a_prompts_experts_are_sent_where_that_is_cheaper(
    two_cards: int, path: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(path, threads=2, memory=MemoryOptions(None, CARDS, context_tokens=CONTEXT))
    sent: list[int] = []
    try:
        tiers = loaded.model._experts._tiers  # type: ignore[attr-defined]
        begin = tiers.pool.begin_sent

        def counted(card, x, works):
            sent.append(len(works))
            return begin(card, x, works)

        monkeypatch.setattr(tiers.pool, "begin_sent", counted)
        slow = tiers.speeds.speeds
        tiers.speeds = MeasuredSpeeds(type(slow)(1e6, 1e9, 1e6, cards=slow.cards))  # a processor worth nothing
        found = logits(loaded)
    finally:
        loaded.close()
    assert close_to(found, expected)
    assert sum(sent) > 24  # more than one layer's


def test_a_card_that_others_use_is_refused_with_the_numbers(
    two_cards: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (200_000_000, 24_000_000_000))
    needed = buffer_bytes(path, 8192) / (1 - CARD_RESERVE) / 1e9
    with pytest.raises(RequestError, match=rf"cuda:0 has 0.2 of 24.0 GB free .* more than {needed:.1f} are needed"):
        load_model(path, memory=MemoryOptions(None, CARDS))
    with pytest.raises(RequestError, match=r"cuda:7: there are 2 cards, 0 to 1"):
        load_model(path, memory=MemoryOptions(None, (CardSpec("cuda", None, 7),)))


def test_the_cache_takes_what_was_planned_for_it(two_cards: int, path: Path) -> None:
    with GgufFile.open(path) as file:
        config = config_from_gguf(file.metadata)
        on_cards = place_on_cards(file.tensors, config, CARDS, CONTEXT)
    model = model_bytes_of_file(path)
    facts = [card_devices.facts_of(spec) for spec in card_devices.present_cards(CARDS, 0)]
    planned = place_layers(facts, model, CONTEXT).places
    loaded = load_model(path, threads=2, memory=MemoryOptions(None, CARDS, context_tokens=CONTEXT))
    cache = loaded.model.new_cache(CONTEXT)
    homes = [layer.home for layer in loaded.model._layers]
    loaded.close()
    for number, place in enumerate(planned):
        held = [index for index, home in enumerate(homes) if home.name == f"cuda:{number}"]
        assert len(held) == place.layers > 0
        assert sum(cache.layer(index).nbytes for index in held) == place.cache_bytes
    assert on_cards.layers_in_ram(config) == config.n_layers - len(homes) == 0


def test_a_failed_recording_is_told_with_the_experts_state(
    path: Path, monkeypatch: pytest.MonkeyPatch, two_cards: int
) -> None:
    monkeypatch.setattr("k2lite.card_placement.recorder_for", lambda device: BrokenRecorder(works=0))
    loaded = load_model(path, threads=2, memory=MemoryOptions(None, CARDS, context_tokens=64))
    try:
        cache = loaded.model.new_cache(64)
        assert loaded.model.experts_state().notes == ()
        loaded.model.forward(torch.tensor([5]), cache)
        assert [note.split()[0] for note in loaded.model.experts_state().notes] == ["cuda:0", "cuda:1"]
    finally:
        loaded.close()


class SlowProcessor:
    """A loaded model on two cards, beside a processor that multiplies next to nothing, with what it sends ahead."""

    def __init__(self, path: Path, budget: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded = load_model(path, threads=2, memory=MemoryOptions(budget, CARDS, context_tokens=CONTEXT))
        self.tiers: Tiers = self.loaded.model._experts._tiers  # type: ignore[attr-defined]
        speeds = self.tiers.speeds.speeds
        self.tiers.speeds = MeasuredSpeeds(replace(speeds, cpu_bytes_per_s=1e6, cpu_flops=1e6))
        monkeypatch.setattr(MeasuredSpeeds, "cpu", lambda *_: None)
        monkeypatch.setattr(MeasuredSpeeds, "arithmetic", lambda *_: None)
        monkeypatch.setattr("offload.send_ahead._LENDING_TOKENS", 50)
        self.ahead, self.lent = list[ExpertKey](), list[int]()
        for sending in self.tiers.pool.sending:
            monkeypatch.setattr(sending, "end_ahead", self.noting(sending.end_ahead, sending))

    def noting(self, end_ahead, sending):
        def noted() -> list[ExpertKey]:
            there = end_ahead()
            self.ahead += there
            self.lent.append(len(sending.lent))
            return there

        return noted

    @property
    def held(self) -> list[ExpertKey]:
        residency = self.tiers.residency
        tables = (residency.ram, *residency.cards)
        moving = {move.move.key for move in (*self.tiers.pool._under_way, *self.tiers.pool._finished)}
        return [key for table in tables for key in table if table.is_pinned(key) and key not in moving]


@pytest.mark.parametrize("ram_share", [None, 0.6])
def test_the_next_layers_experts_come_ahead_into_slots_that_are_lent(
    two_cards: int, path: Path, expected: Tensor, ram_share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = SlowProcessor(path, budget_of(path, ram_share), monkeypatch)
    residency = machine.tiers.residency
    try:
        for _ in range(3):
            assert close_to(logits(machine.loaded), expected)
            # Tokens came one by one since: the slots are experts' again.
            assert not any(sending.lent or sending._ahead for sending in machine.tiers.pool.sending)
            assert not machine.held
        machine.loaded.model.settle()
        held = [sum(table.free_slots(c) for c in range(len(table.slots))) + len(table) for table in residency.cards]
        assert held == [sum(table.slots) for table in residency.cards]
    finally:
        machine.loaded.close()
    assert len(machine.ahead) > 20 and {key[0] for key in machine.ahead} == {2, 3, 4}
    assert max(machine.lent) > 0


def test_a_stopped_prompt_leaves_nothing_on_its_way(
    two_cards: int, path: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = SlowProcessor(path, None, monkeypatch)
    stop, many = threading.Event(), machine.loaded.model._experts._many  # type: ignore[attr-defined]
    begin = many._ahead.begin

    def begin_and_stop(layer: int, tokens: int) -> None:
        begin(layer, tokens)
        if layer == 2:
            assert many._ahead._asked
            stop.set()

    monkeypatch.setattr(many._ahead, "begin", begin_and_stop)
    try:
        machine.loaded.model.listen(stop)
        with pytest.raises(Stopped):
            logits(machine.loaded)
        assert not many._ahead._asked and not machine.held
        assert not any(sending._ahead for sending in machine.tiers.pool.sending)
        machine.loaded.model.listen(None)
        stop.clear()
        monkeypatch.setattr(many._ahead, "begin", begin)
        assert close_to(logits(machine.loaded), expected)
    finally:
        machine.loaded.close()
