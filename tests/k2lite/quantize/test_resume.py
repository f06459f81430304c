"""Quantizing a model survives being killed at any moment, and every way in which its source may leave it."""

import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import opened_job
from quant.convert.job import convert
from quant.convert.job_types import ConversionStopped, ConvertJob, ConvertLimits, ConvertProgress, ConvertReport
from quant.convert.source_tensor import SourceTensor
from quant.errors import CheckpointError, OutputError
from tests.killed_conversions import Killer
from tests.quant.convert_samples import sample_job
from tests.tiny import write_checkpoint

EARLY = "blk.0.ffn_down.weight"

# A record for every chunk: whatever the moment, there is something to go on with.
OFTEN = ConvertLimits(stretch_bytes=1, chunk_weights=20_000)

# Nothing is read ahead: what happens to the source is felt.
ONE_BY_ONE = ConvertLimits(stretch_bytes=1, memory_bytes=1)


@contextmanager
def job_at(source: Path, options: QuantizeOptions, destination: Path) -> Iterator[ConvertJob]:
    with opened_job(source, destination, options) as opened:
        yield opened.job


@contextmanager
def large_job_at(destination: Path) -> Iterator[ConvertJob]:
    """Experts of a width between those of small and large models, made up as they are read."""
    shape = (24, 2048, 2048)

    def read(part: int) -> Tensor:
        return torch.randn(shape[1:], generator=torch.Generator().manual_seed(part))

    tensors = [SourceTensor(f"blk.{layer}.ffn_down_exps.weight", shape, shape[1], read) for layer in range(2)]
    yield sample_job(destination, tensors=tensors, types={"": "Q4_K"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source" / "k2", "k2", layers=2, experts=8)


def killer(folder: Path, tmp_path: Path, name: str, options: QuantizeOptions) -> Killer:
    return Killer(functools.partial(job_at, folder, options), tmp_path, name, OFTEN)


def test_a_killed_conversion_goes_on_and_encodes_nothing_twice(folder: Path, tmp_path: Path) -> None:
    outcome = killer(folder, tmp_path, "a.gguf", QuantizeOptions(type="Q4_K_M")).kill_after_steps(6, share=0.6, seed=0)
    assert (outcome.kills, outcome.again) == (6, [])
    assert outcome.conversions >= 1 and outcome.resumed >= 3


def when_at(name: str, action: Callable[[], object]) -> Callable[[ConvertProgress], None]:
    """A progress callback that does something once, when the first chunk of a tensor is written."""
    left = [action]

    def progress(state: ConvertProgress) -> None:
        if state.tensor_name == name and left:
            left.pop()()

    return progress


def quantize_to(folder: Path, destination: Path, **options: object) -> ConvertReport:
    with job_at(folder, QuantizeOptions(type="Q8_0"), destination) as job:
        return convert(job, threads=2, limits=ONE_BY_ONE, verify=False, **options)


def experts_shard(folder: Path) -> Path:
    """The file that holds the experts of the last layer."""
    return sorted(folder.glob("*.safetensors"))[1]


def test_a_source_that_is_cut_off_while_it_is_read_is_named_and_can_be_put_right(folder: Path, tmp_path: Path) -> None:
    shard = experts_shard(folder)
    data, state = shard.read_bytes(), shard.stat()
    with pytest.raises(CheckpointError, match=r"run the same command again to go on") as caught:
        quantize_to(folder, tmp_path / "a.gguf", progress=when_at(EARLY, lambda: os.truncate(shard, 4096)))
    assert shard.name in str(caught.value)
    shard.write_bytes(data)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert quantize_to(folder, tmp_path / "a.gguf").work.resumed_weights > 0
    quantize_to(folder, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_source_that_is_deleted_while_it_is_read_does_no_harm(folder: Path, tmp_path: Path) -> None:
    quantize_to(folder, tmp_path / "b.gguf")
    kept = shutil.copytree(folder, tmp_path / "kept" / "k2")
    try:
        quantize_to(folder, tmp_path / "a.gguf", progress=when_at(EARLY, lambda: shutil.rmtree(folder)))
    except CheckpointError as error:
        assert "run the same command again to go on" in str(error)
        shutil.copytree(kept, folder)
        assert quantize_to(folder, tmp_path / "a.gguf").work.resumed_weights > 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_source_that_changed_between_two_runs_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(ConversionStopped):
        quantize_to(folder, tmp_path / "a.gguf", progress=when_at(EARLY, stop.set), stop=stop)
    shard = experts_shard(folder)
    os.utime(shard, ns=(0, 0))
    with pytest.raises(OutputError, match=f"{shard.name} is not what it was.*--restart"):
        quantize_to(folder, tmp_path / "a.gguf")
    assert quantize_to(folder, tmp_path / "a.gguf", restart=True).work.resumed_weights == 0


def test_other_options_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(ConversionStopped):
        quantize_to(folder, tmp_path / "a.gguf", progress=when_at(EARLY, stop.set), stop=stop)
    with (
        job_at(folder, QuantizeOptions(type="Q6_K"), tmp_path / "a.gguf") as job,
        pytest.raises(OutputError, match="type is Q6_K now, Q8_0 before"),
    ):
        convert(job)


@contextmanager
def memory_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own at `folder`. Skips the test where that is not allowed."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"file systems cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_told_and_can_be_resumed(folder: Path, tmp_path: Path) -> None:
    quantize_to(folder, tmp_path / "b.gguf")
    room = (tmp_path / "b.gguf").stat().st_size + 200_000
    with memory_disk(tmp_path / "disk", f"size={room}") as disk:
        ballast = disk / "ballast"
        fill = functools.partial(ballast.write_bytes, bytes(room // 2))
        # Chance decides what meets the end of the disk first: the output, which has numbers to tell, or the journal.
        output_full = r"a\.gguf\.part .* No space left on device \([\d,]+ bytes are still to be written"
        full = rf"{output_full}|a\.gguf\.journal: No space left on device"
        with pytest.raises(OutputError, match=full):
            quantize_to(folder, disk / "a.gguf", progress=when_at(EARLY, fill))
        with pytest.raises(OutputError, match=r"are written already\), but .* free: free [\d,]+ bytes"):
            quantize_to(folder, disk / "a.gguf")
        ballast.unlink()
        assert quantize_to(folder, disk / "a.gguf").work.resumed_weights > 0
        assert (disk / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_folder_that_cannot_be_written_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "size=16M") as disk:
        stop = threading.Event()
        with pytest.raises(ConversionStopped):
            quantize_to(folder, disk / "a.gguf", progress=when_at(EARLY, stop.set), stop=stop)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for name in ("a.gguf", "b.gguf"):
            with pytest.raises(OutputError, match=r"cannot create .*journal: Read-only file system"):
                quantize_to(folder, disk / name)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert quantize_to(folder, disk / "a.gguf").work.resumed_weights > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name", "options", "kills"),
    [
        ("k2", "a.gguf", QuantizeOptions(type="Q4_K_M"), 60),
        ("k2-thinking", "a.gguf", QuantizeOptions(type="INT4", shard_bytes=1 << 20), 20),
        ("moonlight", "a", QuantizeOptions(type="NF4", double_quant=True, shard_bytes=1 << 20), 20),
    ],
)
def test_kills_at_random_steps_change_no_byte(
    tmp_path: Path, family: str, name: str, options: QuantizeOptions, kills: int
) -> None:
    source = write_checkpoint(tmp_path / "source" / family, family, layers=2, experts=16)
    outcome = killer(source, tmp_path, name, options).kill_after_steps(kills, share=0.5, seed=1)
    assert (outcome.kills, outcome.again) == (kills, [])
    assert outcome.resumed >= kills // 3 and outcome.conversions >= 1


@pytest.mark.slow
def test_kills_at_random_times_change_no_byte(folder: Path, tmp_path: Path) -> None:
    outcome = killer(folder, tmp_path, "a.gguf", QuantizeOptions(type="Q4_K_M")).kill_after_seconds(
        50, share=0.8, seed=2
    )
    assert (outcome.kills, outcome.again) == (50, [])
    assert outcome.conversions >= 1


@pytest.mark.slow
def test_kills_of_a_larger_model_change_no_byte(tmp_path: Path) -> None:
    """200 million weights, whose records are as far apart as those of a real conversion."""
    limits = ConvertLimits(stretch_bytes=8 << 20)
    outcome = Killer(large_job_at, tmp_path, "a.gguf", limits).kill_after_seconds(8, share=0.7, seed=3)
    assert (outcome.kills, outcome.again) == (8, [])
    assert outcome.resumed >= 1 and outcome.conversions >= 1
