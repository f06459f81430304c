"""Collecting an importance matrix: chunks, stopping, going on, and what is refused."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from k2lite.imatrix import CollectionStopped, ImatrixJob, ImatrixProgress, collect_imatrix
from k2lite.imatrix_resume import model_digest, only_run
from quant.errors import ImatrixError, K2Error, OutputError, RequestError
from quant.imatrix.collect import CollectingKernels
from quant.imatrix.imatrix import Imatrix
from quant.imatrix.merge import merge_imatrices
from tests.tiny import write_checkpoint

TEXT = "The quick brown fox jumps over 12 lazy dogs; they are not amused, and say so: woof! " * 6
CHUNK = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("imatrix") / "k2", "k2", layers=2)


@pytest.fixture
def job(model: Path, tmp_path: Path) -> ImatrixJob:
    return ImatrixJob(model, TEXT, "fox.txt", tmp_path / "a.gguf", CHUNK, kernels="reference", threads=1)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of four chunks, collected in one go."""
    path = tmp_path_factory.mktemp("whole") / "a.gguf"
    collect_imatrix(ImatrixJob(model, TEXT, "fox.txt", path, CHUNK, max_chunks=4, kernels="reference", threads=1))
    return path.read_bytes()


class StopAt:
    """Asks to stop at a certain product of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, product: int) -> None:
        self.event = threading.Event()
        self.products = 0
        check_heads = CollectingKernels.linear

        def linear(kernels: CollectingKernels, *arguments):
            self.products += 1
            if self.products == product:
                self.event.set()
            return check_heads(kernels, *arguments)

        monkeypatch.setattr(CollectingKernels, "linear", linear)


def header_of(path: Path) -> tuple[tuple[str, ...], int, int]:
    with Imatrix.open(path) as imatrix:
        return imatrix.header.datasets, imatrix.header.chunk_count, imatrix.header.chunk_size


def test_the_whole_text_is_read_in_whole_chunks(job: ImatrixJob) -> None:
    states: list[ImatrixProgress] = []
    report = collect_imatrix(job, progress=states.append)
    assert header_of(job.destination) == (("fox.txt",), report.chunks, CHUNK)
    assert report.chunks > 4
    assert [state.done_tokens for state in states] == [CHUNK * done for done in range(report.chunks + 1)]
    assert {state.total_tokens for state in states} == {report.tokens} == {CHUNK * report.chunks}
    assert [file.name for file in job.destination.parent.iterdir()] == ["a.gguf"]
    with Imatrix.open(job.destination) as imatrix:
        assert len(imatrix.names) == report.weights
        assert not imatrix.covers("output.weight")
        assert not imatrix.covers("token_embd.weight")


def test_the_head_is_counted_when_it_is_asked_for(job: ImatrixJob) -> None:
    collect_imatrix(replace(job, max_chunks=1, process_output=True))
    with Imatrix.open(job.destination) as imatrix:
        assert imatrix.importance("output.weight", (640, 256)).shape == (1, 256)


def test_more_chunks_are_added_to_those_that_are_there(job: ImatrixJob, whole: bytes) -> None:
    collect_imatrix(replace(job, max_chunks=3))
    states: list[ImatrixProgress] = []
    collect_imatrix(replace(job, max_chunks=4), progress=states.append)
    assert [state.done_tokens // CHUNK for state in states] == [3, 4]
    assert states[0].resumed_tokens == 3 * CHUNK
    assert job.destination.read_bytes() == whole


def test_a_complete_file_is_left_as_it_is(job: ImatrixJob) -> None:
    collect_imatrix(replace(job, max_chunks=2))
    written = job.destination.stat().st_mtime_ns
    assert collect_imatrix(replace(job, max_chunks=1)).chunks == 2
    assert job.destination.stat().st_mtime_ns == written


@pytest.mark.parametrize("product", [1, 2, 9, 20, 33])
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_bytes(
    job: ImatrixJob, whole: bytes, product: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, max_chunks=4)
    with monkeypatch.context() as patch:
        stop = StopAt(patch, product)
        with pytest.raises(CollectionStopped, match="the same command goes on"):
            collect_imatrix(job, stop=stop.event)
    # It ends at the very next product, in the middle of a layer.
    assert stop.products == product
    assert job.destination.exists() == (product > 1)
    collect_imatrix(job)
    assert job.destination.read_bytes() == whole


def test_a_killed_run_goes_on_from_the_last_save(
    job: ImatrixJob, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, max_chunks=4)

    def die(state: ImatrixProgress) -> None:
        if state.done_tokens == 3 * CHUNK:
            raise SystemExit

    with pytest.raises(SystemExit):
        collect_imatrix(job, progress=die, save_every_s=0)
    assert header_of(job.destination)[1] == 2
    collect_imatrix(job)
    assert job.destination.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda job: replace(job, text=TEXT + "!"), "from another text"),
        (lambda job: replace(job, chunk_tokens=48), r"in chunks of 32 tokens \(--chunk-size\)"),
        (lambda job: replace(job, process_output=True), "without output.weight"),
        (lambda job: replace(job, text="other " * 99, chunk_tokens=48), "from another text.* and in chunks"),
    ],
)
def test_a_file_of_another_run_is_refused(
    job: ImatrixJob, change: Callable[[ImatrixJob], ImatrixJob], problem: str
) -> None:
    collect_imatrix(replace(job, max_chunks=1))
    before = job.destination.read_bytes()
    with pytest.raises(ImatrixError, match=f"{problem}.*choose another name with -o"):
        collect_imatrix(change(job))
    assert job.destination.read_bytes() == before


def test_a_file_of_another_model_is_refused(job: ImatrixJob, tmp_path: Path) -> None:
    collect_imatrix(replace(job, max_chunks=1))
    other = write_checkpoint(tmp_path / "other", "k2", layers=2, seed=1)
    with pytest.raises(ImatrixError, match="with another model"):
        collect_imatrix(replace(job, model=other))


def test_a_moved_model_is_the_same_one(model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(model)
    assert model_digest(moved) == model_digest(model)


def test_a_merged_file_is_not_gone_on_with(job: ImatrixJob, tmp_path: Path) -> None:
    collect_imatrix(replace(job, max_chunks=1))
    merge_imatrices([job.destination, job.destination], tmp_path / "merged")
    with pytest.raises(ImatrixError, match="not from a run that can go on"):
        collect_imatrix(replace(job, destination=tmp_path / "merged"))


def test_runs_of_two_texts_merge_to_what_one_run_of_both_finds(job: ImatrixJob, tmp_path: Path, whole: bytes) -> None:
    """Chunks have no past, so the chunks of one text are those of its parts."""
    import numpy as np

    from quant.imatrix.imatrix_file import open_statistics

    first = replace(job, max_chunks=2)
    collect_imatrix(first)
    (tmp_path / "whole").write_bytes(whole)
    # The file of all four chunks less that of the first two is that of the last two.
    merge_imatrices([job.destination, tmp_path / "whole"], tmp_path / "merged")
    parts, merged = open_statistics(job.destination), open_statistics(tmp_path / "merged")
    all_four = open_statistics(tmp_path / "whole")
    assert merged.header.chunk_count == 6
    for name in merged.names:
        expected = parts.read(name).sums.astype(float) + all_four.read(name).sums
        assert np.allclose(merged.read(name).sums, expected, rtol=1e-6)
        assert np.array_equal(merged.read(name).counts, parts.read(name).counts + all_four.read(name).counts)


def test_two_runs_for_one_file_are_refused(job: ImatrixJob) -> None:
    with only_run(job.destination), pytest.raises(OutputError, match="another process is collecting"):
        collect_imatrix(job)
    collect_imatrix(replace(job, max_chunks=1))  # the lock is gone with its owner


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda job: replace(job, text="too short"), r"the text has \d+ tokens, but a chunk takes 32"),
        (lambda job: replace(job, chunk_tokens=10**9), "at most the context"),
    ],
)
def test_chunks_that_cannot_be_made_are_refused(
    job: ImatrixJob, change: Callable[[ImatrixJob], ImatrixJob], problem: str
) -> None:
    with pytest.raises(RequestError, match=problem):
        collect_imatrix(change(job))
    assert not job.destination.exists()


def test_a_destination_that_cannot_be_is_refused_before_the_model_is_loaded(job: ImatrixJob, tmp_path: Path) -> None:
    def loading(done: int, total: int) -> None:
        pytest.fail("the model was loaded")

    for destination, problem in ((tmp_path / "no" / "a", "does not exist"), (tmp_path, "not a file")):
        with pytest.raises(OutputError, match=problem):
            collect_imatrix(replace(job, destination=destination), loading=loading)


def test_memory_that_does_not_suffice_is_told_before_any_work(
    job: ImatrixJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CollectingKernels, "nbytes", 10**15)
    with pytest.raises(RequestError, match=r"take 1000000.0 GB of memory"):
        collect_imatrix(job)


def test_an_error_in_the_model_keeps_what_was_counted(job: ImatrixJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from k2lite.model import Model

    forward = Model.forward
    left = [2]

    def failing(model: Model, *arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise RequestError("broken")
        return forward(model, *arguments, **options)

    monkeypatch.setattr(Model, "forward", failing)
    with pytest.raises(K2Error, match="broken"):
        collect_imatrix(job)
    assert header_of(job.destination)[1] == 2
