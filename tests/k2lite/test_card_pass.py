"""One token through a card's layers in one native call, with a driver that is a few functions of the processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from k2lite.card_driver import driver_calls
from k2lite.card_step import CardStep
from k2lite.card_weights import CardBuilder
from k2lite.config_gguf import config_from_gguf
from k2lite.home import Home
from k2lite.load import LoadedModel, load_model
from k2lite.load_gguf import GgufTensors
from k2lite.model import Model
from k2lite.recording import CarefulRecorder, Recorder
from k2lite.weights import Builder, HostBuilder, build_model
from offload.memory_options import MemoryOptions
from quant.errors import StoreError
from quant.gguf.gguf_file import GgufFile
from quant.kernels import make_kernels
from quant.kernels.card import make_card_kernels
from quant.kernels.card_floats import CardFloats
from tests.k2lite.fake_driver import DriverRecorder, FakeDriver
from tests.k2lite.simulated_cards import buffer_bytes, simulate_cards
from tests.k2lite.test_card_engine import CARDS, CONTEXT, budget_of, close_to
from tests.k2lite.test_cards import FAMILIES, logits, tiny_file
from tests.k2lite.test_recording import BrokenRecorder, OperationRecorder


@contextmanager
def built(path: Path, on_card: range, recorder: Recorder) -> Iterator[Model]:
    """A model whose layers `on_card` are on a card made of the processor's memory, the others with native kernels."""
    kernels, home = make_kernels("native", 2), Home("card", torch.device("cpu"), is_card=True)
    with GgufFile.open(path) as file:
        config = config_from_gguf(file.metadata)
        card = CardBuilder(home, CardStep(home.device, config, recorder), CardFloats(make_card_kernels("reference")))
        parts = config.n_layers + 1
        builders: list[Builder] = [card if part in on_card else HostBuilder(kernels) for part in range(parts)]
        yield build_model(config, GgufTensors(file), kernels, builders=builders)
    kernels.close()


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2lite.card_step._SMALLEST_WINDOW", 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_gives_what_layer_after_layer_does(family: str, tmp_path: Path, small_windows: None) -> None:
    path = tiny_file(tmp_path, family, "F32")
    ids = torch.randint(500, (30,), generator=torch.Generator().manual_seed(1))
    chunks = (5, *[1] * 12, 3, *[1] * 10)
    driver = FakeDriver()
    with built(path, range(0), DriverRecorder(driver)) as model:
        last = model.config.n_layers + 1
    for on_card in (range(last), range(1, 2), range(1, last)):
        with built(path, on_card, OperationRecorder()) as model:
            assert [found.is_ready(model._experts) for found in model._card_passes.values()] == [False]
            expected = logits(model, ids, chunks)
            counters = model.counters()
        # As a graph behaves: what is recorded is repeated, on the tensors that it had.
        with built(path, on_card, DriverRecorder(driver, OperationRecorder())) as model:
            assert [found.is_ready(model._experts) for found in model._card_passes.values()] == [True]
            before = len(driver.asked)
            found = logits(model, ids, chunks)
            assert len(driver.asked) > before
            assert torch.equal(found, expected)
            assert model.counters() == counters


def test_what_it_asks_of_a_driver_for_a_layer(tmp_path: Path) -> None:
    driver = FakeDriver()
    with built(tiny_file(tmp_path, "k2", "F32", layers=3), range(4), DriverRecorder(driver)) as model:
        model.forward(torch.tensor([3]), model.new_cache(8))
        assert model.config.n_dense_layers == 1
    routed = ["launch", "copy", "record", "launch", "wait", "copy"]
    assert driver.asked == ["launch", "launch", *routed, *routed]


def loaded(path: Path, budget: int | None) -> LoadedModel:
    return load_model(path, threads=2, memory=MemoryOptions(budget, CARDS, context_tokens=CONTEXT))


@pytest.mark.parametrize("ram_share", [pytest.param(None, marks=pytest.mark.slow), 0.5])
def test_experts_on_two_cards_in_ram_and_on_the_drive(
    ram_share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_file(tmp_path, "k2", "Q8_0", layers=5, experts=24, update_gain=0.1)
    plain = load_model(path, threads=2)
    ids = torch.randint(500, (160,), generator=torch.Generator().manual_seed(5))
    chunks = (60, *[1] * 100)
    expected = logits(plain.model, ids, chunks)
    plain.close()
    simulate_cards(monkeypatch, 2, path.stat().st_size // 3, buffer_bytes(path, CONTEXT))
    driver = FakeDriver()
    monkeypatch.setattr("k2lite.card_placement.recorder_for", lambda device: DriverRecorder(driver))
    model = loaded(path, budget_of(path, ram_share))
    try:
        found = logits(model.model, ids, chunks)
        assert close_to(found, expected)
        model.model.settle()
        state = model.model.experts_state()
        hits = {tier.name: tier.hits for tier in state.tiers}
        assert hits["card 0"] and hits["card 1"] and hits["RAM"]
        if ram_share is None:  # nothing is on a drive, so every token was a pass
            assert driver.asked.count("wait") == (len(ids) - 60) * 4
        assert sum(hits.values()) >= (len(ids) - 60) * 4 * model.model.config.experts_per_token
        assert state.promotions
        assert {len(used) for used in state.used.values()} == {model.model.config.experts_per_token}
    finally:
        model.close()


def test_a_driver_that_refuses_ends_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_file(tmp_path, "k2", "Q8_0", layers=5, experts=24)
    simulate_cards(monkeypatch, 1, path.stat().st_size, buffer_bytes(path, CONTEXT))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    driver = FakeDriver()
    monkeypatch.setattr("k2lite.card_placement.recorder_for", lambda device: DriverRecorder(driver))
    model = loaded(path, None)
    try:
        cache = model.model.new_cache(32)
        expected = model.model.forward(torch.tensor([5]), cache)
        for after in (0, 1, 7, 11):
            driver.fail(after)
            with pytest.raises(StoreError, match=r"cuda:0 has failed .*719"):
                model.model.forward(torch.tensor([5]), model.model.new_cache(32))
        assert torch.equal(model.model.forward(torch.tensor([5]), model.model.new_cache(32)), expected)
    finally:
        model.close()


def test_a_card_that_does_not_record_goes_layer_by_layer(tmp_path: Path) -> None:
    path = tiny_file(tmp_path, "k2", "F32")
    ids = torch.randint(500, (12,), generator=torch.Generator().manual_seed(1))
    with built(path, range(0), OperationRecorder()) as model:
        last = model.config.n_layers + 1
    with built(path, range(last), OperationRecorder()) as model:
        expected = logits(model, ids, (3, *[1] * 9))
    notes: list[str] = []
    for works in (0, 2):

        class Broken(BrokenRecorder):
            calls = FakeDriver().calls

        with built(path, range(last), CarefulRecorder("cuda:0", Broken(works), notes.append)) as model:
            assert torch.equal(logits(model, ids, (3, *[1] * 9)), expected)
    assert len(notes) == 2


def test_without_a_driver_there_is_nothing_to_call() -> None:
    assert driver_calls() is None or driver_calls().launch > 0  # type: ignore[union-attr]
