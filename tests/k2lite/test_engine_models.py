"""The engine over real models: a tiny random one, and the one that ships with k2lite."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from k2lite.engine import LocalEngine
from k2lite.engine_options import EngineOptions
from k2lite.events import Finished, LoadProgress, Message, Request, Sampling, Token
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from tests.k2lite.fakes import write_chat_checkpoint

NEVER = threading.Event()
QUESTION = Request(messages=(Message("user", "the quick brown fox"),), sampling=Sampling(temperature=0), max_tokens=12)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_chat_checkpoint(tmp_path_factory.mktemp("engine") / "tiny")
    quantize(folder, folder.parent / "tiny.gguf", QuantizeOptions("Q8_0"), threads=1)
    return folder.parent / "tiny.gguf"


@pytest.fixture
def engine(tiny_file: Path) -> Iterator[LocalEngine]:
    yield from opened(tiny_file, EngineOptions(context_tokens=256))


def opened(path: Path | None, options: EngineOptions) -> Iterator[LocalEngine]:
    engine = LocalEngine(path, options)
    list(engine.load())
    yield engine
    engine.close()


def answer(engine: LocalEngine, request: Request = QUESTION) -> tuple[list[int], Finished]:
    events = list(engine.generate(request, NEVER))
    assert isinstance(events[-1], Finished)
    return [event.id for event in events if isinstance(event, Token) and event.id is not None], events[-1]


def test_loading_reports_up_to_the_whole_file(tiny_file: Path) -> None:
    engine = LocalEngine(tiny_file)
    progress = list(engine.load())
    assert progress[-1] == LoadProgress(progress[-1].total_bytes, progress[-1].total_bytes)
    assert progress[-1].total_bytes == engine.info().weight_bytes
    engine.close()


def test_a_reused_prefix_gives_the_tokens_of_a_new_engine(engine: LocalEngine, tiny_file: Path) -> None:
    fresh, _ = answer(engine)
    other = replace(QUESTION, messages=(Message("user", "the quick red fox and the dog"),))
    answer(engine, other)
    reused, finished = answer(engine)
    assert reused == fresh
    assert finished.cached_tokens > 5


def test_the_size_of_prefill_chunks_does_not_change_the_answer(engine: LocalEngine, tiny_file: Path) -> None:
    for small in opened(tiny_file, EngineOptions(context_tokens=256, prefill_chunk_tokens=3)):
        assert answer(small)[0] == answer(engine)[0]


def test_tiers_say_how_much_was_read_for_this_answer(engine: LocalEngine) -> None:
    (_, first), (_, second) = answer(engine), answer(engine)
    assert 0 < second.tiers["ram_bytes"] < first.tiers["ram_bytes"]


def test_the_demo_model_answers_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K2LITE_HOME", str(tmp_path))
    question = Request(messages=(Message("user", "What is an expert?"),), sampling=Sampling(temperature=0))
    for engine in opened(None, EngineOptions()):
        _, finished = answer(engine, question)
    assert finished.reason == "stop"
    assert "expert" in finished.text.lower()
