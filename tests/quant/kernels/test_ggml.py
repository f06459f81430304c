"""What is special to the ggml kernels: threads, pieces and graphs."""

import functools
import gc
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quant.ggml_library import load_ggml
from quant.kernels import ExpertCall, ExpertWeights
from quant.kernels.ggml import GgmlKernels
from quant.kernels.ggml_activations import activation_format
from quant.kernels.ggml_graph import MAX_GRAPHS, ProductShape, Worker
from quant.kernels.ggml_tasks import row_pieces
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type
from tests.quant import random_weights as samples

IDLE_S = 0.2
IDLE_CPU_S = 0.02


@pytest.fixture(autouse=True)
def many_small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small matrices into many pieces and wake every thread for them."""
    monkeypatch.setattr("quant.kernels.ggml_tasks.PIECE_BYTES", 1 << 13)
    monkeypatch.setattr("quant.kernels.ggml_tasks.BATCH_PIECE_BYTES", 1 << 13)
    monkeypatch.setattr("quant.kernels.ggml.THREAD_BYTES", 1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@functools.cache
def random_weights(name: str, shape: tuple[int, ...], seed: int = 0) -> QuantizedTensor:
    return samples.random_weights(block_type(name), shape, seed)


def linear(kernels: GgmlKernels, tokens: int) -> Tensor:
    return kernels.linear(random(tokens, 512), random_weights("Q4_K", (1001, 512)))


def float_linear(kernels: GgmlKernels, tokens: int) -> Tensor:
    return kernels.linear(random(tokens, 130), random_weights("F32", (1002, 130)))


def heads(kernels: GgmlKernels, tokens: int) -> Tensor:
    return kernels.linear_heads(random(tokens, 16, 128), random_weights("Q8_0", (16, 64, 128)))


def experts(kernels: GgmlKernels, tokens: int) -> Tensor:
    calls = []
    for number in range(5):
        gate, up = (random_weights("Q4_K", (512, 256), number + part) for part in (0, 10))
        weights = ExpertWeights(gate, up, random_weights("Q6_K", (256, 512), number + 20))
        chosen = torch.arange(number % 2, tokens, 2)
        calls.append(ExpertCall(weights, chosen, torch.full((len(chosen),), 0.1 * number + 0.3)))
    return kernels.experts(random(tokens, 256), calls)


@pytest.mark.parametrize("product", [linear, float_linear, heads, experts])
@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_results_do_not_depend_on_the_number_of_threads(
    product: Callable[[GgmlKernels, int], Tensor], tokens: int
) -> None:
    results = []
    for threads in (1, 2, 5):
        kernels = GgmlKernels(threads)
        results += [product(kernels, tokens) for _ in range(3)]
        kernels.close()
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].abs().max() > 0


def test_the_work_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    graph = Worker.graph

    def noting(worker: Worker, shape: ProductShape) -> object:
        names.add(threading.current_thread().name)
        time.sleep(0.002)  # so that no thread takes all tasks before the others wake
        return graph(worker, shape)

    monkeypatch.setattr(Worker, "graph", noting)
    kernels = GgmlKernels(3)
    linear(kernels, 1)
    kernels.close()
    assert names == {threading.current_thread().name, "k2lite-kernels-1", "k2lite-kernels-2"}


def test_a_small_product_wakes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.kernels.ggml.THREAD_BYTES", 1 << 20)
    asked: list[int] = []
    kernels = GgmlKernels(3)
    run = kernels._pool.run
    monkeypatch.setattr(
        kernels._pool, "run", lambda tasks, extra_threads: (asked.append(extra_threads), run(tasks, extra_threads))
    )
    linear(kernels, 1)
    assert max(asked) == 0
    linear(kernels, 20)
    kernels.close()
    assert max(asked) > 0


def test_neither_ggml_nor_openmp_start_threads() -> None:
    folder = Path("/proc/self/task")
    if not folder.exists():
        pytest.skip("no /proc/self/task on this system")
    gc.collect()
    before = {task.name for task in folder.iterdir()}
    kernels = GgmlKernels(3)
    for product in (linear, heads, experts):
        product(kernels, 20)
    started = {task.name for task in folder.iterdir()} - before
    kernels.close()
    assert len(started) == 2


def test_the_process_is_quiet_after_a_product() -> None:
    kernels = GgmlKernels(3)
    experts(kernels, 20)
    before = time.process_time()
    time.sleep(IDLE_S)
    spent = time.process_time() - before
    kernels.close()
    assert spent < IDLE_CPU_S


def test_closing_ends_the_threads() -> None:
    kernels = GgmlKernels(4)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("k2lite-kernels")]
    assert len(threads) == 3
    kernels.close()
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("rows_of_a_wave", [1, 7, 1000])
def test_experts_do_not_depend_on_how_many_are_computed_at_a_time(
    monkeypatch: pytest.MonkeyPatch, rows_of_a_wave: int
) -> None:
    kernels = GgmlKernels(2)
    expected = experts(kernels, 12)
    monkeypatch.setattr("quant.kernels.ggml.WAVE_ROWS", rows_of_a_wave)
    assert torch.equal(experts(kernels, 12), expected)
    kernels.close()


def test_two_callers_at_once_get_their_own_results() -> None:
    kernels = GgmlKernels(2)
    expected = {tokens: linear(kernels, tokens) for tokens in (1, 2, 3, 20)}
    wrong: list[int] = []

    def ask(tokens: int) -> None:
        wrong.extend(tokens for _ in range(5) if not torch.equal(linear(kernels, tokens), expected[tokens]))

    callers = [threading.Thread(target=ask, args=(tokens,)) for tokens in expected]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    kernels.close()
    assert wrong == []


@pytest.mark.parametrize("tokens", [1, 7, 8, 500])
@pytest.mark.parametrize("row_bytes", [4, 144, 4032, 1 << 22])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1408, 18432])
def test_pieces_cover_all_rows_in_steps(rows: int, row_bytes: int, tokens: int) -> None:
    pieces = row_pieces(rows, row_bytes, tokens)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == rows
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
    assert all(start < stop for start, stop in pieces)
    assert all(start % 64 == 0 for start, _ in pieces)


def test_graphs_are_kept_and_bounded() -> None:
    worker = Worker(load_ggml())
    shapes = [ProductShape(0, 0, 8, 4, tokens, 16) for tokens in range(1, MAX_GRAPHS + 10)]
    first = worker.graph(shapes[0])
    for shape in shapes:
        worker.graph(shape)
        assert worker.graph(shapes[0]) is first
    assert len(worker._graphs) == MAX_GRAPHS
    assert worker.graph(shapes[1]) is not None


def test_activation_formats_are_ggmls() -> None:
    library = load_ggml()
    found = {name: activation_format(library, block_type(name)) for name in ("F32", "F16", "Q5_1", "Q6_K")}
    layouts = {name: (form.block_weights, form.block_bytes) for name, form in found.items() if form is not None}
    assert layouts == {"F32": (1, 4), "F16": (1, 2), "Q5_1": (32, 36), "Q6_K": (256, 292)}
    assert activation_format(library, BlockType("Q8_K", 15, 256, 292)) is None
