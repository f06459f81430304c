"""Recordings of a card's work: what they depend on, when they are made anew, and that they stay right meanwhile."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from k2lite.card_step import WindowRecording, window_of
from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.kv_cache import KvCache
from k2lite.recording import CallRecorder, CarefulRecorder, Recording
from tests.k2lite.test_cards import built, logits, tiny_file
from tests.tiny import build


class Graph(TorchDispatchMode):
    """Behaves as a CUDA graph does: a replay repeats the recorded operations on the tensors they had, whatever the
    host knows by then. To ask for a value is refused: a card cannot be recorded while somebody waits for it."""

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__()
        self._operations: list[tuple[Any, ...]] = []
        self.replays = 0
        self.handle: int | None = None
        with self:
            run()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a recording asks for a value"
        found = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, found in self._operations:
            for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class OperationRecorder:
    """A recorder as GraphRecorder is, for the processor: runs what it records first."""

    calls = None

    def __init__(self) -> None:
        self.graphs: list[Graph] = []

    def record(self, run: Callable[[], None]) -> Recording:
        run()
        self.graphs.append(Graph(run))
        return self.graphs[-1]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("recording"), "k2", "F32")


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return config_from_json(build("k2", layers=2, experts=4).config)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("k2lite.card_step._SMALLEST_WINDOW", 4)
    yield


def test_recorded_layers_compute_what_the_processor_does(path: Path, small_windows: None) -> None:
    ids = torch.randint(500, (40,), generator=torch.Generator().manual_seed(1))
    with built(path, range(0)) as model:
        expected = logits(model, ids, (40,))
        layers = model.config.n_layers
    recorder = OperationRecorder()
    with built(path, range(layers + 1), recorder) as model:
        found = logits(model, ids, (3, *[1] * 20, 7, *[1] * 10))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    # Of each layer what is beside the experts once, and what is in front of them at windows of 4, 8, 16, 32 and 40.
    assert len(recorder.graphs) == layers * (1 + 5)
    assert sum(graph.replays for graph in recorder.graphs) == layers * 2 * 30


def test_another_conversation_and_a_shorter_one_are_recorded_anew(path: Path, small_windows: None) -> None:
    ids = torch.randint(500, (36,), generator=torch.Generator().manual_seed(2))
    with built(path, range(0)) as model:
        expected = logits(model, ids, (36,))
    recorder = OperationRecorder()
    with built(path, range(2), recorder) as model:
        for _ in range(2):  # each has a cache of its own
            cache = model.new_cache(64)
            model.forward(ids[:30], cache)
            model.forward(ids[30:31], cache)
            cache.truncate(2)
            found = torch.cat([model.forward(token, cache, last_only=False) for token in ids[2:].split(1)])
            assert (found - expected[2:]).abs().max() < 1e-4 * expected.abs().max()
    # Windows of 32, then 4, 8, 16, 32 and 64, twice, in two layers; and the rest once.
    assert len(recorder.graphs) == 2 * (2 * 6 + 1)


def test_what_was_cut_off_is_not_seen(path: Path) -> None:
    """Positions behind the conversation's end are in the window, and may have held anything."""
    ids = torch.randint(500, (12,), generator=torch.Generator().manual_seed(3))
    with built(path, range(2)) as model:
        cache = model.new_cache(64)
        model.forward(ids, cache)
        expected = model.forward(ids[:1], cache)
        cache.truncate(12)
        for layer in range(model.config.n_layers):
            cache.write(layer, torch.full((20, model.config.latent_dim), float("inf")))
        cache.advance(20)
        cache.truncate(12)
        assert torch.equal(model.forward(ids[:1], cache), expected)


def test_windows_are_powers_of_two_within_the_cache() -> None:
    assert [window_of(n, 10_000) for n in (1, 256, 257, 512, 513, 5000)] == [256, 256, 512, 512, 1024, 8192]
    assert window_of(9000, 10_000) == 10_000 and window_of(5, 100) == 100


def test_a_window_is_kept_until_it_is_far_too_large(config: ModelConfig) -> None:
    cache, recorder, seen = KvCache(config, 1 << 14), OperationRecorder(), WindowRecording()
    windows: list[int] = []

    def run(window: Tensor) -> None:
        windows.append(len(window))

    for length in (3000, 4095, 4096, 2000, 1100, 1000, 10, 300):
        cache.length = length
        seen.replay(recorder, run, cache, 1)
    assert list(dict.fromkeys(windows)) == [4096, 8192, 1024]
    assert len(recorder.graphs) == 3


class BrokenRecorder:
    """Fails after it has worked for a while."""

    calls = None

    def __init__(self, works: int) -> None:
        self.works = works

    def record(self, run: Callable[[], None]) -> Recording:
        self.works -= 1
        if self.works < 0:
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing\nmore")
        return CallRecorder().record(run)


def test_without_graphs_each_kernel_is_started_and_the_user_told_once() -> None:
    notes: list[str] = []
    recorder = CarefulRecorder("cuda:1", BrokenRecorder(works=1), notes.append)
    ran: list[int] = []
    for number in range(3):
        recorder.record(lambda number=number: ran.append(number)).replay()
    assert ran == [0, 1, 2]
    assert notes == [
        "cuda:1 starts each kernel by itself, which is slower: recording them failed "
        "(CUDA error: operation not permitted when stream is capturing)"
    ]


def test_a_call_is_a_recording_too() -> None:
    counted = [0]

    def run() -> None:
        counted[0] += 1

    recording = CallRecorder().record(run)
    assert counted == [0]
    recording.replay()
    recording.replay()
    assert counted == [2]
