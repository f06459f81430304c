"""Prompts in long chunks on cards: as planned, and answered alike."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite.load import LoadedModel, load_model
from k2lite.model_bytes import model_bytes_of_file
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from offload import card_devices, card_sending
from offload.dispatch import MachineSpeeds, MeasuredSpeeds
from offload.machine import Machine
from offload.memory_options import CardSpec, MemoryOptions
from offload.placement import place_layers, place_model
from tests.k2lite.simulated_cards import buffer_bytes, simulate_cards
from tests.k2lite.test_card_engine import CARDS, ERROR, close_to
from tests.tiny import write_checkpoint

CONTEXT, TOKENS = 2048, 1500


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that adds little to its stream, so that rounding changes no routing."""
    folder = tmp_path_factory.mktemp("long")
    write_checkpoint(folder / "k2", "k2", layers=4, experts=24, update_gain=0.1)
    quantize(folder / "k2", folder / "k2.gguf", QuantizeOptions("Q8_0"), threads=2)
    return folder / "k2.gguf"


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Two cards with room for longer chunks, and for half of the model each besides."""
    grown = model_bytes_of_file(path).buffers.token * CONTEXT
    simulate_cards(monkeypatch, 2, path.stat().st_size // 2 + 9 * grown, buffer_bytes(path, CONTEXT))


def logits(loaded: LoadedModel, chunk: int) -> Tensor:
    """Of all of a prompt's tokens, and of one after it."""
    ids = torch.randint(500, (TOKENS + 1,), generator=torch.Generator().manual_seed(5))
    cache = loaded.model.new_cache(CONTEXT)
    parts = (*ids[:TOKENS].split(chunk), ids[TOKENS:])
    return torch.cat([loaded.model.forward(part, cache, last_only=False) for part in parts])


def row_errors(found: Tensor, expected: Tensor) -> Tensor:
    """The relative error of each token's logits."""
    return (found - expected).pow(2).mean(-1).sqrt() / expected.pow(2).mean(-1).sqrt()


def test_a_prompt_in_one_long_chunk_is_answered_alike(
    two_cards: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_model(path, threads=2)
    expected = logits(plain, 512)
    plain.close()
    monkeypatch.setattr(card_sending, "places_together", lambda hidden: 700)  # experts get more tokens than that
    loaded = load_model(path, threads=2, memory=MemoryOptions(None, CARDS, context_tokens=CONTEXT))
    try:
        tiers = loaded.model._experts._tiers  # type: ignore[attr-defined]
        slow: MachineSpeeds = tiers.speeds.speeds
        tiers.speeds = MeasuredSpeeds(type(slow)(1e6, 1e9, 1e6, cards=slow.cards))  # so that experts are sent
        assert loaded.model.prefill_tokens == CONTEXT
        long, short = logits(loaded, CONTEXT), logits(loaded, 512)
        cut = row_errors(long, short)  # the cache of 16 bits rounds what is nearly alike
        assert cut.median() < 1e-5 and cut.max() < ERROR
        assert close_to(long, expected)
        counters = loaded.model.counters()
    finally:
        loaded.close()
    assert counters["card0_experts"] and counters["card1_experts"]


def test_the_plan_and_the_cards_agree_on_chunk_and_buffers(
    two_cards: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[card_devices.PoolCard] = []
    fitted = card_devices.fitted
    monkeypatch.setattr("offload.build.fitted", lambda card: made.append(card) or fitted(card))  # type: ignore[func-returns-value]
    for context in (CONTEXT, 600, 128):
        made.clear()
        loaded = load_model(path, threads=2, memory=MemoryOptions(None, CARDS, context_tokens=context))
        homes = [layer.home.name for layer in loaded.model._layers]
        chunk = loaded.model.prefill_tokens
        loaded.close()
        facts = tuple(card_devices.facts_of(spec) for spec in card_devices.present_cards(CARDS, 0))
        model = model_bytes_of_file(path)
        plan = place_model(Machine(64 << 30, 30e9, 2e9, 300e9, facts), model, context)
        assert plan.chunk_tokens == chunk == max(512, 1 << (context - 1).bit_length())
        for number, (place, card) in enumerate(zip(plan.cards, made, strict=True)):
            assert place.buffer_bytes == model.buffers.bytes_of(chunk, context)
            assert card.kept_bytes == place.buffer_bytes + place.cache_bytes
            assert card.slot_bytes == place_layers(facts, model, context).places[number].free_bytes
            assert homes.count(card.name) == place.layers


@pytest.mark.parametrize(("budget", "tokens"), [(None, CONTEXT), (200_000_000, 1024)])
def test_ram_may_have_room_for_shorter_chunks_only(
    two_cards: None, path: Path, budget: int | None, tokens: int
) -> None:
    loaded = load_model(path, threads=2, memory=MemoryOptions(budget, CARDS, context_tokens=CONTEXT))
    found = loaded.model.prefill_tokens
    loaded.close()
    assert found == tokens


def test_virtual_cards_have_no_links_and_no_longer_chunks(path: Path) -> None:
    cards = (CardSpec("virtual", path.stat().st_size // 2),)
    loaded = load_model(path, threads=2, memory=MemoryOptions(None, cards, context_tokens=CONTEXT))
    found = loaded.model.prefill_tokens
    loaded.close()
    assert found is None
