"""Pieces are read ahead and encoded at once, in bounded memory, and come out in order."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.convert.job_types import ConvertJob, ConvertLimits
from quant.convert.pieces import pieces_after
from quant.convert.pipeline import FIRST_CHUNK_WEIGHTS, EncodedChunk, encoded_chunks
from quant.convert.resume import Place
from quant.convert.source_tensor import SourceTensor
from quant.encode.encode import encode
from quant.errors import CheckpointError
from quant.types import BlockType
from tests.quant.convert_samples import as_float32, sample_job

ROWS, COLS = 16, 64
PART_WEIGHTS = ROWS * COLS
PART_BYTES = 8 * PART_WEIGHTS  # float32 read and float32 written
WAIT_S = 30

# Four chunks a part, two parts in memory.
LIMITS = ConvertLimits(chunk_weights=PART_WEIGHTS // 4, memory_bytes=2 * PART_BYTES)


def stack(count: int, read: Callable[[int], Tensor], encoder: Callable = as_float32) -> ConvertJob:
    """A tensor of `count` parts, as F32."""
    source = SourceTensor("experts", (count, ROWS, COLS), ROWS, read)
    return sample_job(Path("a.gguf"), tensors=[source], encoder=encoder)


def chunks_of(job: ConvertJob, threads: int, limits: ConvertLimits = LIMITS) -> Iterator[EncodedChunk]:
    """All chunks, without the ticks between them."""
    chunks = encoded_chunks(job, pieces_after(job, Place(0, 0)), threads, limits)
    return (chunk for chunk in chunks if chunk is not None)


def numbered(part: int) -> Tensor:
    return torch.full((ROWS, COLS), float(part))


@pytest.fixture
def four_torch_threads() -> Iterator[None]:
    """Torch as it is on a larger machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Recorder:
    """A source of parts that counts how many of their tensors are alive."""

    def __init__(self) -> None:
        self.reads = 0
        self.alive = 0
        self.most_alive = 0
        self._lock = threading.Lock()

    def read(self, number: int) -> Tensor:
        values = numbered(number)
        with self._lock:
            self.reads += 1
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(values.untyped_storage(), self._forget)
        return values

    def _forget(self) -> None:
        with self._lock:
            self.alive -= 1


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_chunks_come_out_in_order(threads: int) -> None:
    chunks = list(chunks_of(stack(20, numbered), threads))
    values = np.concatenate([chunk.data.view(np.float32) for chunk in chunks]).reshape(-1, COLS)
    assert values[:, 0].tolist() == [number for number in range(20) for _ in range(ROWS)]
    assert [chunk.rows.start for chunk in chunks[1:]] == [chunk.rows.stop for chunk in chunks[:-1]]
    assert max(chunk.weights for chunk in chunks) <= PART_WEIGHTS // 4


@pytest.mark.parametrize("threads", [2, 64])
def test_memory_grows_with_neither_the_number_of_parts_nor_that_of_threads(threads: int) -> None:
    recorder = Recorder()
    for _ in chunks_of(stack(200, recorder.read, lambda *given: as_float32(*given).copy()), threads):
        pass
    # Two by the limit, and those that a thread has not let go of yet though their bytes were handed over.
    assert 1 <= recorder.most_alive <= 4
    assert recorder.alive == 0


def test_a_part_larger_than_all_memory_is_read_alone() -> None:
    recorder = Recorder()
    limits = ConvertLimits(memory_bytes=PART_BYTES // 2)
    assert sum(chunk.weights for chunk in chunks_of(stack(50, recorder.read), 4, limits)) == 50 * PART_WEIGHTS
    assert recorder.most_alive <= 3


def test_the_next_part_is_read_while_one_is_encoded() -> None:
    second_was_read = threading.Event()

    def read(number: int) -> Tensor:
        if number == 1:
            second_was_read.set()
        return numbered(number)

    def encoder(rows: Tensor, block: BlockType, importance: Tensor | None) -> np.ndarray:
        assert second_was_read.wait(WAIT_S)
        return as_float32(rows, block, importance)

    assert len(list(chunks_of(stack(2, read, encoder), 1))) == 8


def test_chunks_of_one_part_are_encoded_at_the_same_time() -> None:
    all_four = threading.Barrier(4)

    def encoder(rows: Tensor, block: BlockType, importance: Tensor | None) -> np.ndarray:
        all_four.wait(WAIT_S)
        return as_float32(rows, block, importance)

    assert len(list(chunks_of(stack(1, numbered, encoder), 4))) == 4


def test_chunks_of_a_slow_type_become_small() -> None:
    """What a stop has to wait for is one chunk, however slow its encoder is."""

    def encoder(rows: Tensor, block: BlockType, importance: Tensor | None) -> np.ndarray:
        time.sleep(rows.numel() * 1e-6)
        return as_float32(rows, block, importance)

    source = SourceTensor("a", (4096, COLS), 1024, lambda part: torch.zeros(1024, COLS))
    job = sample_job(Path("a.gguf"), tensors=[source], encoder=encoder)
    # The first part is cut before a chunk has told how slow it is; there is no memory to read others meanwhile.
    limits = ConvertLimits(chunk_s=0.004, memory_bytes=4 * 1024 * COLS * 8 // 3)
    sizes = [chunk.weights for chunk in chunks_of(job, 1, limits)]
    assert sizes[0] == FIRST_CHUNK_WEIGHTS
    assert max(sizes[1024 * COLS // FIRST_CHUNK_WEIGHTS :]) <= 4000


def test_chunks_of_a_fast_type_grow_to_the_limit() -> None:
    source = SourceTensor("a", (8192, COLS), 2048, lambda part: torch.zeros(2048, COLS))
    job = sample_job(Path("a.gguf"), tensors=[source], encoder=as_float32)
    limits = ConvertLimits(chunk_s=60, chunk_weights=2048 * COLS, memory_bytes=2048 * COLS * 8)
    sizes = [chunk.weights for chunk in chunks_of(job, 1, limits)]
    # Memory decides here: in weights it is a quarter of its bytes, and the thread needs a second chunk waiting.
    assert sizes[-1] == 2048 * COLS * 8 // 4 // 2


@pytest.mark.usefixtures("four_torch_threads")
def test_torch_starts_no_threads_inside_ours_and_gets_its_own_back() -> None:
    seen: list[int] = []

    def encoder(rows: Tensor, block: BlockType, importance: Tensor | None) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return as_float32(rows, block, importance)

    list(chunks_of(stack(3, numbered, encoder), 2))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 4


def test_closing_early_ends_all_threads_and_reads_no_further() -> None:
    recorder, threads = Recorder(), threading.active_count()
    job = stack(200, recorder.read)
    chunks = encoded_chunks(job, pieces_after(job, Place(0, 0)), 2, LIMITS)
    while next(chunks) is None:
        pass
    chunks.close()
    assert threading.active_count() == threads
    assert recorder.reads < 10


def test_the_consumer_is_asked_again_while_nothing_is_ready() -> None:
    go_on = threading.Event()

    def read(number: int) -> Tensor:
        assert go_on.wait(WAIT_S)
        return numbered(number)

    job = stack(1, read)
    chunks = encoded_chunks(job, pieces_after(job, Place(0, 0)), 1, LIMITS)
    assert next(chunks) is None
    go_on.set()
    assert sum(chunk.weights for chunk in chunks if chunk is not None) == PART_WEIGHTS


def test_a_failure_comes_after_everything_before_it() -> None:
    def read(number: int) -> Tensor:
        if number == 3:
            raise CheckpointError("gone")
        return numbered(number)

    seen = []
    with pytest.raises(CheckpointError, match="gone"):
        for chunk in chunks_of(stack(6, read), 4, ConvertLimits()):
            seen.append(chunk.weights)
    assert sum(seen) == 3 * PART_WEIGHTS


def test_an_encoder_that_makes_the_wrong_number_of_bytes_is_a_bug() -> None:
    with pytest.raises(ValueError, match="instead of"):
        list(chunks_of(stack(1, numbered, lambda rows, block, importance: np.zeros(3, np.uint8)), 1))


def test_an_importance_of_the_wrong_shape_is_a_bug() -> None:
    source = SourceTensor("experts", (2, ROWS, COLS), ROWS, numbered)
    wrong = sample_job(Path("a.gguf"), tensors=[source], encoder=encode, importance=lambda *_: torch.ones(1, COLS))
    with pytest.raises(ValueError, match=r"importance of experts: \(1, 64\), not \(2, 64\)"):
        list(chunks_of(wrong, 1))
