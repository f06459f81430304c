"""Cards that are full, busy, old, unlike each other, hidden, or gone: what the user is told, and what goes on."""

import threading
from pathlib import Path

import pytest
import torch

from k2lite.card_layer import CardLayer
from k2lite.engine import LocalEngine
from k2lite.engine_options import EngineOptions
from k2lite.events import Request
from k2lite.load import load_model
from offload import card_devices
from offload.card_errors import card_errors
from offload.kernel_card import KernelCard
from offload.machine import CARD_RESERVE
from offload.memory_options import CardSpec, MemoryOptions
from quant.errors import RequestError, StoreError
from tests.k2lite.simulated_cards import buffer_bytes, simulate_cards
from tests.k2lite.test_cards import tiny_file

CONTEXT = 128
CARDS = (CardSpec("cuda", None, None),)
LOST = torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("failures"), "k2", "Q8_0", layers=4, experts=24)


@pytest.fixture
def usable(monkeypatch: pytest.MonkeyPatch, path: Path) -> int:
    """Of each of two cards."""
    nbytes = path.stat().st_size // 3
    simulate_cards(monkeypatch, 2, nbytes, buffer_bytes(path, CONTEXT))
    return nbytes


def options(path: Path) -> MemoryOptions:
    return MemoryOptions(None, CARDS, context_tokens=CONTEXT)


def slots(loaded) -> list[int]:
    return [sum(table.slots) for table in loaded.model._experts._tiers.residency.cards]


def test_a_card_that_fills_up_while_the_model_is_loaded_gets_fewer_experts(
    usable: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(path, threads=2, memory=options(path))
    planned = slots(loaded)
    loaded.close()
    kept: dict[int | None, int] = {}
    real = card_devices.fitted

    def desktop_begins(card):
        """The first card has half of its slots' memory left, the second one all."""
        kept[card.spec.number] = card.kept_bytes
        left = card.slot_bytes // 2 if card.spec.number == 0 else card.slot_bytes
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (card.kept_bytes + left, 24 << 30))
        return real(card)

    monkeypatch.setattr("offload.build.fitted", desktop_begins)
    loaded = load_model(path, threads=2, memory=options(path))
    found, notes = slots(loaded), loaded.model.experts_state().notes
    loaded.model.forward(torch.arange(8), loaded.model.new_cache(8))
    loaded.close()
    assert 0 < found[0] <= planned[0] // 2 + 1 and found[1] == planned[1]
    assert len(notes) == 1 and notes[0].startswith("cuda:0 has 0.00 GB less than when its experts were planned")
    assert min(kept.values()) > buffer_bytes(path, CONTEXT)  # and the cache


def test_cards_of_two_sizes_are_each_filled(usable: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, sizes = buffer_bytes(path, CONTEXT), (3 * usable // 2, 3 * usable // 4)
    free = [int((buffers + nbytes) / (1 - CARD_RESERVE)) for nbytes in sizes]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], free[number]))
    loaded = load_model(path, threads=2, memory=options(path))
    homes = [layer.home.name for layer in loaded.model._layers]
    of_each = slots(loaded)
    loaded.close()
    assert homes == sorted(homes) and homes.count("cuda:0") > homes.count("cuda:1") > 0
    assert of_each[0] > of_each[1] > 0


def test_no_room_for_slots_is_refused_with_the_numbers(
    usable: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullCard:
        """torch, for a card without room."""

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

        def empty(self, *shape: int, **options: object) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("offload.kernel_card.torch", FullCard())
    with pytest.raises(StoreError, match=r"cuda:0 has no [0-9.]+ GB left: give it less"):
        load_model(path, threads=2, memory=options(path))


def test_an_old_card_is_refused(usable: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (7, 5) if number else (8, 6))
    with pytest.raises(RequestError, match=r"cuda:1 has compute capability 7.5, but 8.0 is needed"):
        load_model(path, memory=options(path))
    loaded = load_model(path, threads=2, memory=MemoryOptions(None, (CardSpec("cuda", None, 0),), context_tokens=64))
    loaded.close()


def test_hidden_cards_are_explained(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RequestError, match=r"torch finds no CUDA card \(CUDA_VISIBLE_DEVICES may hide it\)"):
        load_model(path, memory=options(path))


def test_a_card_that_is_gone_when_it_is_asked_for_its_memory(
    usable: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(number: int) -> tuple[int, int]:
        raise LOST

    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    with pytest.raises(StoreError, match=r"cuda:0 has failed \(CUDA error: unspecified launch failure\): start again"):
        load_model(path, memory=options(path))


@pytest.mark.parametrize("where", ["layer", "slots", "between"])
def test_a_card_that_vanishes_ends_the_answer_with_its_name(
    usable: int, path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    engine = LocalEngine(path, EngineOptions(context_tokens=CONTEXT, threads=2, devices="cuda"))
    list(engine.load())
    request = Request(raw_prompt="hello world", max_tokens=8)
    assert list(engine.generate(request, threading.Event()))

    def lost(*_: object, **__: object) -> None:
        raise LOST

    name = r"cuda:\d"
    if where == "layer":
        monkeypatch.setattr(CardLayer, "_one", lost)
        monkeypatch.setattr(CardLayer, "_many", lost)
    elif where == "slots":
        engine._loaded.model.settle()  # type: ignore[union-attr]
        monkeypatch.setattr(KernelCard, "_sums", lost)
    else:
        monkeypatch.setattr(engine._loaded.model, "_rotations", lost)  # type: ignore[union-attr]
        name = "a card"
    with pytest.raises(StoreError, match=f"{name} has failed .*start again without it"):
        list(engine.generate(Request(raw_prompt="once more, please", max_tokens=40), threading.Event()))
    engine.close()


def test_libraries_for_cards_fail_as_cards_do_and_others_do_not() -> None:
    for text in ("CUBLAS_STATUS_EXECUTION_FAILED when calling ...", "Triton Error [CUDA]: an illegal memory access"):
        with pytest.raises(StoreError, match="cuda:2 has failed"), card_errors("cuda:2"):
            raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shapes"), card_errors("cuda:2"):
        raise RuntimeError("shapes do not fit")
