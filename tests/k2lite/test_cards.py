"""Layers on cards: the same model on kernels for cards, and on virtual cards to the last bit."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite.card_placement import place_on_cards
from k2lite.card_step import CardStep
from k2lite.card_weights import CardBuilder
from k2lite.config_gguf import config_from_gguf
from k2lite.home import RAM, Home
from k2lite.load import LoadedModel, load_model
from k2lite.load_gguf import GgufTensors
from k2lite.model import Model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from k2lite.recording import CallRecorder, Recorder
from k2lite.weights import Builder, HostBuilder, build_model
from offload.machine import Machine
from offload.memory_options import CardSpec, MemoryOptions
from offload.placement import place_model
from quant.gguf.gguf_file import GgufFile
from quant.kernels import make_kernels
from quant.kernels.card import make_card_kernels
from quant.kernels.card_floats import CardFloats
from tests.tiny import write_checkpoint

FAMILIES = ("k2", "moonlight", "deepseek-v3", "deepseek-v2-lite")
CONTEXT = 256


def tiny_file(folder: Path, family: str, recipe: str, **options: int) -> Path:
    write_checkpoint(folder / family, family, **options)
    quantize(folder / family, folder / f"{family}-{recipe}.gguf", QuantizeOptions(recipe), threads=2)
    return folder / f"{family}-{recipe}.gguf"


@contextmanager
def built(path: Path, on_card: range, recorder: Recorder | None = None) -> Iterator[Model]:
    """A model with the reference kernels, whose layers `on_card` are on a card made of the processor's memory."""
    kernels, home = make_kernels("reference", 1), Home("card", torch.device("cpu"), is_card=True)
    with GgufFile.open(path) as file:
        config = config_from_gguf(file.metadata)
        step = CardStep(home.device, config, recorder or CallRecorder())
        card = CardBuilder(home, step, CardFloats(make_card_kernels("reference")))
        parts = config.n_layers + 1
        builders: list[Builder] = [card if part in on_card else HostBuilder(kernels) for part in range(parts)]
        yield build_model(config, GgufTensors(file), kernels, builders=builders)


def logits(model: Model, ids: Tensor, chunks: tuple[int, ...]) -> Tensor:
    cache = model.new_cache(len(ids))
    return torch.cat([model.forward(part, cache, last_only=False) for part in ids.split(list(chunks))])


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_on_a_card_compute_what_the_processor_does(family: str, tmp_path: Path) -> None:
    path = tiny_file(tmp_path, family, "F32")
    ids = torch.randint(500, (40,), generator=torch.Generator().manual_seed(1))
    with built(path, range(0)) as model:
        expected = logits(model, ids, (40,))
        last = model.config.n_layers + 1
    for on_card in (range(last), range(1, 2), range(1, last)):
        for chunks in ((40,), (33, 1, 1, 5)):
            with built(path, on_card) as model:
                assert (logits(model, ids, chunks) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_quantized_layers_on_a_card_are_close(tmp_path: Path) -> None:
    path = tiny_file(tmp_path, "k2", "Q4_K_M")
    ids = torch.randint(500, (24,), generator=torch.Generator().manual_seed(1))
    with built(path, range(0)) as model:
        expected = logits(model, ids, (24,))
        parts = model.config.n_layers + 1
    with built(path, range(parts)) as model:
        assert (logits(model, ids, (20, 1, 3)) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.fixture(scope="module")
def k2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("cards"), "k2", "Q4_K_M", layers=11, experts=16)


def placed(path: Path, count: int, share: float, ram_share: float | None = None) -> LoadedModel:
    """`count` virtual cards with room for `share` of the model together, and RAM for `ram_share` of it."""
    nbytes = path.stat().st_size
    cards = tuple(CardSpec("virtual", int(nbytes * share) // count, number) for number in range(count))
    budget = None if ram_share is None else int(nbytes * ram_share)
    return load_model(path, threads=2, memory=MemoryOptions(budget, cards, context_tokens=CONTEXT))


def greedy(loaded: LoadedModel, tokens: int) -> tuple[list[int], Tensor]:
    model = loaded.model
    prompt = torch.randint(500, (30,), generator=torch.Generator().manual_seed(2))
    cache = model.new_cache(CONTEXT)
    found, last = [], model.forward(prompt, cache)
    for _ in range(tokens):
        found.append(int(last[-1].argmax()))
        last = model.forward(torch.tensor(found[-1:]), cache)
    return found, last


@pytest.mark.parametrize("ram_share", [None, 0.7])
@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_virtual_cards_with_layers_answer_alike(k2_file: Path, count: int, ram_share: float | None) -> None:
    plain = load_model(k2_file, threads=2)
    expected = greedy(plain, 24)
    plain.close()
    loaded = placed(k2_file, count, 0.9, ram_share)
    try:
        found = greedy(loaded, 24)
        state = loaded.model.experts_state()
    finally:
        loaded.close()
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    assert state.promotions > 0


def test_the_stream_is_handed_over_once_at_every_boundary(k2_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crossings: list[str] = []
    receive = Home.receive

    def counted(home: Home, x: Tensor) -> Tensor:
        crossings.append(home.name)
        return receive(home, x)

    monkeypatch.setattr(Home, "receive", counted)
    loaded = placed(k2_file, 4, 0.9)
    homes = [part.home.name for part in (*loaded.model._layers, loaded.model._head)]
    loaded.model.forward(torch.arange(5), loaded.model.new_cache(8))
    loaded.close()
    assert crossings == list(dict.fromkeys(homes)) and len(crossings) >= 3 and "RAM" not in crossings


def test_without_room_for_a_layer_a_card_takes_experts_alone(k2_file: Path) -> None:
    with GgufFile.open(k2_file) as file:
        largest = max(info.nbytes // 16 for name, info in file.tensors.items() if "_exps" in name)
    cards = (CardSpec("virtual", 8 * largest),)
    loaded = load_model(k2_file, threads=2, memory=MemoryOptions(None, cards, context_tokens=40_000_000))
    assert {layer.home for layer in loaded.model._layers} == {RAM}
    loaded.close()


@pytest.mark.parametrize("count", [1, 4, 10])
def test_the_plan_and_the_pool_agree(k2_file: Path, count: int) -> None:
    from k2lite.model_bytes import model_bytes_of_file
    from offload.card_devices import facts_of

    loaded = placed(k2_file, count, 0.9, 0.7)
    try:
        residency = loaded.model._experts._tiers.residency  # type: ignore[attr-defined]
        homes = [layer.home.name for layer in loaded.model._layers]
        slots = [sum(table.slots) for table in residency.cards]
    finally:
        loaded.close()
    cards = tuple(CardSpec("virtual", int(k2_file.stat().st_size * 0.9) // count, number) for number in range(count))
    machine = Machine(64 << 30, 30e9, 2e9, 300e9, tuple(map(facts_of, cards)))
    plan = place_model(machine, model_bytes_of_file(k2_file), CONTEXT)
    for number, place in enumerate(plan.cards):
        assert homes.count(f"virtual:{number}") == place.layers
        # A slot has room around its expert for whole blocks of the drive: of these small experts some bytes more.
        assert place.expert_count * 0.6 <= slots[number] <= place.expert_count


def test_cards_that_are_not_there_are_told(k2_file: Path) -> None:
    from quant.errors import RequestError

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(RequestError, match="--devices cuda: this torch was built without CUDA"):
        load_model(k2_file, memory=MemoryOptions(cards=(CardSpec("cuda", None, None),)))


def test_placement_counts_what_leaves_ram(k2_file: Path) -> None:
    with GgufFile.open(k2_file) as file:
        config = config_from_gguf(file.metadata)
        resident = sum(
            info.nbytes for name, info in file.tensors.items() if "_exps" not in name and name != "token_embd.weight"
        )
        cards = (CardSpec("virtual", 1 << 30),)
        found = place_on_cards(file.tensors, config, cards, CONTEXT)
    assert found.resident_bytes == resident
    assert found.cards[0].layers == range(config.n_layers + 1)


def test_a_card_that_fails_is_named() -> None:
    from quant.errors import StoreError

    home = Home("cuda:3", torch.device("cpu"))
    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "cuda:3 has no memory left"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"), "cuda:3 has failed .*launch failure"),
    ):
        with pytest.raises(StoreError, match=words), home.active():
            raise error


def test_random_moves_under_load_change_nothing(k2_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_model(k2_file, threads=2)
    expected = greedy(plain, 40)
    plain.close()
    loaded = placed(k2_file, 4, 0.9, 0.6)
    try:
        residency = loaded.model._experts._tiers.residency  # type: ignore[attr-defined]
        use, chance = residency.use, random.Random(11)
        monkeypatch.setattr(residency, "use", lambda key, count=1.0: use(key, count * chance.expovariate(0.1)))
        found = greedy(loaded, 40)
        moved = residency.promotions, residency.demotions, residency.evictions
    finally:
        loaded.close()
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    assert min(moved) > 0, moved
