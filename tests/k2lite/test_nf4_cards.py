"""NF4 folders on cards: layers and experts there, beside RAM as a whole and beside a budget of it."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite import load_nf4
from k2lite.card_layer import CardLayer
from k2lite.config_json import config_from_json
from k2lite.load import LoadedModel, load_model
from k2lite.own_memory import PromptMemory
from k2lite.plan_model import model_named
from k2lite.quantize.nf4 import nf4_job
from offload.card_devices import facts_of
from offload.kernel_card import KernelCard
from offload.machine import Machine
from offload.memory_options import CardSpec, MemoryOptions
from offload.placement import place_model
from offload.residency import RAM
from offload.tiers import Tiers
from quant.convert.job import convert
from quant.errors import RequestError, StoreError
from tests.k2lite.simulated_cards import buffer_bytes, simulate_cards
from tests.k2lite.test_card_engine import CARDS, CONTEXT, SlowProcessor, close_to, logits
from tests.k2lite.test_cards import greedy
from tests.tiny import write_checkpoint

EXPERTS = 24


@dataclass(frozen=True)
class Folder:
    """An NF4 folder, and what its weights take in memory."""

    path: Path
    nbytes: int

    def budget(self, share: float | None) -> int | None:
        """RAM for a share of the model, and for what is on its way to two cards."""
        if share is None:
            return None
        config = config_from_json(json.loads((self.path / "config.json").read_text()))
        with_cards, without = (PromptMemory(config, 1, cards).bytes_of(512) for cards in (2, 0))
        return int(self.nbytes * share) + with_cards - without


def nf4_folder(base: Path, **options: float) -> Path:
    write_checkpoint(base / "source", "k2", **options)  # type: ignore[arg-type]
    with nf4_job(base / "source", base / "nf4") as planned:
        convert(planned.job, threads=1, verify=False)
    return base / "nf4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A random model that adds little to its stream, so that rounding changes no routing."""
    path = nf4_folder(tmp_path_factory.mktemp("nf4-cards"), layers=7, experts=EXPERTS, update_gain=0.1)
    return Folder(path, model_named(str(path), None).total_bytes)


@pytest.fixture(scope="module")
def plain(folder: Folder) -> Iterator[LoadedModel]:
    loaded = load_model(folder.path, threads=2)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def expected(plain: LoadedModel) -> Tensor:
    return logits(plain)


def tiers_of(loaded: LoadedModel) -> Tiers:
    tiers: Tiers = loaded.model._experts._tiers  # type: ignore[attr-defined]
    return tiers


def on_virtual_cards(folder: Folder, count: int, share: float, ram_share: float | None) -> LoadedModel:
    """`count` cards with room for `share` of the model together, and RAM for `ram_share` of it."""
    cards = tuple(CardSpec("virtual", int(folder.nbytes * share) // count, number) for number in range(count))
    return load_model(
        folder.path, threads=2, memory=MemoryOptions(folder.budget(ram_share), cards, context_tokens=CONTEXT)
    )


@pytest.mark.parametrize("ram_share", [None, 0.7])
@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_virtual_cards_answer_to_the_bit(
    folder: Folder, plain: LoadedModel, count: int, ram_share: float | None
) -> None:
    tokens, last = greedy(plain, 24)
    loaded = on_virtual_cards(folder, count, 0.9, ram_share)
    try:
        found = greedy(loaded, 24)
        state, homes = loaded.model.experts_state(), {layer.home.name for layer in loaded.model._layers}
        residency = tiers_of(loaded).residency
        places = {residency.place((layer, expert)) for layer in range(1, 7) for expert in range(EXPERTS)}
    finally:
        loaded.close()
    assert found[0] == tokens and torch.equal(found[1], last)
    assert state.promotions > 0 and "virtual:0" in homes
    assert residency.exclusive == (ram_share is not None)
    assert {tier.name for tier in state.tiers} >= {"RAM", "card 0"} | ({"drive"} if ram_share else set())
    assert RAM in places and max(places) >= 0


def test_random_moves_under_load_change_nothing(
    folder: Folder, plain: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, last = greedy(plain, 40)
    loaded = on_virtual_cards(folder, 4, 0.9, 0.6)
    try:
        residency, chance = tiers_of(loaded).residency, random.Random(11)
        use = residency.use
        monkeypatch.setattr(residency, "use", lambda key, count=1.0: use(key, count * chance.expovariate(0.1)))
        found = greedy(loaded, 40)
        moved = residency.promotions, residency.demotions, residency.evictions
    finally:
        loaded.close()
    assert found[0] == tokens and torch.equal(found[1], last)
    assert min(moved) > 0, moved


@pytest.mark.parametrize("count", [1, 4])
def test_the_plan_and_the_pool_agree(folder: Folder, count: int) -> None:
    loaded = on_virtual_cards(folder, count, 0.9, 0.7)
    try:
        slots = [sum(table.slots) for table in tiers_of(loaded).residency.cards]
        homes = [layer.home.name for layer in loaded.model._layers]
    finally:
        loaded.close()
    cards = tuple(CardSpec("virtual", int(folder.nbytes * 0.9) // count, number) for number in range(count))
    machine = Machine(64 << 30, 30e9, 2e9, 300e9, tuple(map(facts_of, cards)))
    for number, place in enumerate(place_model(machine, model_named(str(folder.path), None), CONTEXT).cards):
        assert homes.count(f"virtual:{number}") == place.layers
        # A slot has room for reading whole blocks of the drive: of these small experts some bytes more.
        assert 0 < place.expert_count * 0.4 <= slots[number] <= place.expert_count


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch, folder: Folder) -> int:
    """Two cards that have, besides what is kept free, room for a third of the model each."""
    pytest.importorskip("bitsandbytes")
    return simulate_cards(monkeypatch, 2, folder.nbytes // 3, buffer_bytes(folder.path, CONTEXT))


@pytest.mark.parametrize("ram_share", [None, 0.7])
def test_a_folder_on_two_cards(two_cards: int, folder: Folder, expected: Tensor, ram_share: float | None) -> None:
    memory = MemoryOptions(folder.budget(ram_share), CARDS, context_tokens=CONTEXT)
    loaded = load_model(folder.path, threads=2, memory=memory)
    try:
        tiers = tiers_of(loaded)
        assert {type(layer) for layer in loaded.model._layers} == {CardLayer}
        found = [logits(loaded) for _ in range(3)]  # in the later ones experts have come to the cards
        counters, state = loaded.model.counters(), loaded.model.experts_state()
        assert all(isinstance(device, KernelCard) and not device._tables for device in tiers.pool.devices)
        used = [sum(map(len, device._known.values())) for device in tiers.pool.devices]  # type: ignore[attr-defined]
    finally:
        loaded.close()
    assert all(close_to(logits, expected) for logits in found)
    assert counters["card0_experts"] and counters["card1_experts"] and min(used) > 0
    assert state.promotions > 0 and tiers.residency.exclusive == (ram_share is not None)
    places = "".join(state.places.values())
    assert ("." in places) == (ram_share is not None), places


@pytest.mark.parametrize("ram_share", [None, 0.7])
def test_a_prompts_experts_are_sent_and_come_ahead(
    two_cards: int, folder: Folder, expected: Tensor, ram_share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = SlowProcessor(folder.path, folder.budget(ram_share), monkeypatch)
    begin, sent = machine.tiers.pool.begin_sent, list[int]()

    def counted(card, x, works):
        sent.append(len(works))
        return begin(card, x, works)

    monkeypatch.setattr(machine.tiers.pool, "begin_sent", counted)
    try:
        for _ in range(3):
            assert close_to(logits(machine.loaded), expected)
            assert not machine.held
    finally:
        machine.loaded.close()
    assert sum(sent) > EXPERTS and len(machine.ahead) > 20 and max(machine.lent) > 0


def test_slabs_are_looked_for_by_those_who_need_them(
    folder: Folder, plain: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needless(*_: object) -> None:
        raise AssertionError("tables beside the experts are read")

    monkeypatch.setattr(load_nf4, "nf4_slabs", needless)
    for budget in (None, 4 * folder.nbytes + (1 << 30)):
        loaded = load_model(folder.path, threads=2, memory=MemoryOptions(budget))
        try:
            assert greedy(loaded, 2)[0] == greedy(plain, 2)[0]
        finally:
            loaded.close()
    with pytest.raises(AssertionError, match="tables beside"):
        load_model(folder.path, threads=2, memory=MemoryOptions(folder.budget(0.7)))


def test_cards_without_room_are_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    simulate_cards(monkeypatch, 1, 1000, buffer_bytes(folder.path, 8192))
    with pytest.raises(StoreError, match=r"card 0 has .* bytes, but one expert of each size takes"):
        load_model(folder.path, threads=2, memory=MemoryOptions(None, CARDS))
    with pytest.raises(RequestError, match="--mirror has no effect"):
        load_model(folder.path, threads=2, memory=MemoryOptions(None, CARDS, folder.path))


def test_experts_that_have_to_be_decoded_stay_in_ram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 96 weights end within a block."""
    pytest.importorskip("bitsandbytes")
    path = nf4_folder(tmp_path, layers=3, experts=4, update_gain=0.1, expert_width=96)
    loaded = load_model(path, threads=2)
    expected = logits(loaded)
    loaded.close()
    simulate_cards(monkeypatch, 1, 1 << 30)
    loaded = load_model(path, threads=2, memory=MemoryOptions(None, CARDS, context_tokens=CONTEXT))
    try:
        assert {type(layer) for layer in loaded.model._layers} == {CardLayer}
        assert close_to(logits(loaded), expected)
        assert [tier.name for tier in loaded.model.experts_state().tiers] == ["RAM"]
    finally:
        loaded.close()
    simulate_cards(monkeypatch, 1, 1000, buffer_bytes(path, 8192))
    with pytest.raises(RequestError, match="no card has room for a layer with its cache"):
        load_model(path, threads=2, memory=MemoryOptions(None, CARDS))
