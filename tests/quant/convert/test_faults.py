"""Stops, full disks, sources that fail: errors with their reasons, nothing left where nothing was done."""

import errno
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.convert.codec import BlockCodec
from quant.convert.job import convert
from quant.convert.job_types import ConversionStopped, ConvertJob, ConvertProgress, PlannedTensor
from quant.convert.source_tensor import SourceTensor
from quant.errors import CheckpointError, EncodeError, OutputError
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import TensorSpec
from quant.types import BlockType, block_type
from tests.quant.convert_samples import (
    SHAPES,
    SMALL,
    WEIGHTS,
    as_float32,
    float_job,
    replaced,
    sample_job,
    source_of,
    sources,
    stopping_after,
    values_of,
)
from tests.quant.files.test_part_file import file_size_limit


def test_stop_before_the_first_weight_leaves_nothing(tmp_path: Path) -> None:
    stop, first_read = threading.Event(), threading.Event()

    def read(part: int) -> Tensor:
        stop.set()
        assert first_read.wait(30)
        raise CheckpointError("read after all")

    # The reader is let go when nobody waits for it: a stop does not need it to return.
    timer = threading.Thread(target=lambda: (stop.wait(30), first_read.set()))
    timer.start()
    with pytest.raises((ConversionStopped, CheckpointError)):
        convert(replaced(float_job(tmp_path / "a.gguf"), "token_embd.weight", read), stop=stop, verify=False)
    timer.join()
    assert list(tmp_path.iterdir()) == []


def test_stop_keeps_what_was_written_and_says_how_to_go_on(tmp_path: Path) -> None:
    stop, threads = threading.Event(), threading.active_count()
    seen: list[ConvertProgress] = []

    def progress(state: ConvertProgress) -> None:
        seen.append(state)
        stopping_after("blk.0.ffn_gate_exps.weight", stop)(state)

    with pytest.raises(ConversionStopped, match=r"bytes written\. .* run the same command again to go on"):
        convert(sample_job(tmp_path / "a.gguf"), threads=2, progress=progress, stop=stop, verify=False, limits=SMALL)
    assert seen[-1].tensor_name == "blk.0.ffn_gate_exps.weight"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf.journal", "a.gguf.part"]
    assert (tmp_path / "a.gguf.part").stat().st_size == seen[-1].written_bytes
    assert threading.active_count() == threads


def test_after_a_stop_no_encoder_begins(tmp_path: Path) -> None:
    stop, begun_late = threading.Event(), []

    def encoder(rows: Tensor, block: BlockType, importance: Tensor | None) -> np.ndarray:
        begun_late.append(stop.is_set())
        return as_float32(rows, block, importance)

    def progress(state: ConvertProgress) -> None:
        stop.set()

    job = sample_job(tmp_path / "a.gguf", types={"": "F32"}, encoder=encoder)
    with pytest.raises(ConversionStopped):
        convert(job, threads=2, progress=progress, stop=stop, verify=False, limits=SMALL)
    # Each thread may have taken one up in between.
    assert sum(begun_late) <= 2 + 2


def fail_after(nbytes: int, always_fits: int = 0) -> Callable[[int, memoryview, int], int]:
    """An os.pwrite for a disk with room for `nbytes` bytes.

    Writes of fewer than `always_fits` bytes go on: a line of the journal fits into the block that it has already.
    """
    write, written = os.pwrite, 0

    def limited(file: int, data: memoryview, position: int) -> int:
        nonlocal written
        if len(data) >= always_fits and written + len(data) > nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(data)
        return write(file, data, position)

    return limited


@pytest.mark.parametrize("room", [0, 100, 900])
def test_a_disk_full_from_the_start_is_one_error_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left on device"):
        patch.setattr(os, "pwrite", fail_after(room))
        convert(float_job(tmp_path / "a.gguf"), threads=2, verify=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [50_000, 100_000, 1_500_000])
def test_a_disk_that_fills_up_is_one_error_with_numbers_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    threads = threading.active_count()
    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left on device") as caught:
        patch.setattr(os, "pwrite", fail_after(room, always_fits=4096))
        convert(float_job(tmp_path / "a.gguf"), threads=2, verify=False, limits=SMALL)
    assert "run the same command again" in str(caught.value) and "\n" not in str(caught.value)
    assert threading.active_count() == threads
    report = convert(float_job(tmp_path / "a.gguf"), verify=False)
    assert report.work.resumed_bytes > 0
    convert(float_job(tmp_path / "b.gguf"), verify=False)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_limit_of_the_kernel_is_one_error(tmp_path: Path) -> None:
    with file_size_limit(100_000), pytest.raises(OutputError, match="File too large"):
        convert(float_job(tmp_path / "a.gguf"), verify=False)
    assert (tmp_path / "a.gguf.part").stat().st_size <= 100_000
    assert convert(float_job(tmp_path / "a.gguf"), verify=False).work.resumed_bytes > 0


def test_a_file_system_that_is_too_small_is_refused_before_any_tensor_is_read(tmp_path: Path) -> None:
    def read(part: int) -> Tensor:
        raise AssertionError("nothing may be read")

    huge = SourceTensor("blk.0.ffn_up.weight", (1 << 40, 256), 1 << 20, read)
    with pytest.raises(OutputError, match=r"takes [\d,]+ bytes, but .* has [\d,]+ free: free [\d,]+ bytes"):
        convert(sample_job(tmp_path / "a.gguf", tensors=[huge]))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_destination_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("precious")
    for restart in (False, True):
        with pytest.raises(OutputError, match="exists already"):
            convert(float_job(tmp_path / "a.gguf"), restart=restart)
    assert (tmp_path / "a.gguf").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing does not exist"):
        convert(float_job(tmp_path / "missing" / "a.gguf"))


def test_what_reading_raises_comes_through_after_everything_before_it_was_written(tmp_path: Path) -> None:
    def read(part: int) -> Tensor:
        raise CheckpointError("the shard is cut off")

    job = replaced(float_job(tmp_path / "a.gguf"), "blk.0.ffn_down_exps.weight", read)
    with pytest.raises(CheckpointError, match=r"the shard is cut off\. .* run the same command again"):
        convert(job, threads=4, verify=False)
    file = job.layout.files[0]
    assert (tmp_path / "a.gguf.part").stat().st_size == file.starts[5]


def test_a_bug_in_reading_is_not_dressed_up_and_can_be_resumed(tmp_path: Path) -> None:
    job = replaced(float_job(tmp_path / "a.gguf"), "output.weight", lambda part: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(job, verify=False)
    assert convert(float_job(tmp_path / "a.gguf"), verify=False).work.resumed_weights == WEIGHTS - 70 * 256


def test_a_value_that_cannot_be_encoded_names_its_tensor_and_part(tmp_path: Path) -> None:
    name = "blk.0.ffn_down_exps.weight"
    broken = values_of(name, SHAPES[name])
    broken[5, 3, 2] = math.nan
    tensors = [source_of(broken, name, 256) if tensor.name == name else tensor for tensor in sources()]
    with pytest.raises(EncodeError, match=r"blk\.0\.ffn_down_exps\.weight \(part 5 of 8\)"):
        convert(sample_job(tmp_path / "a.gguf", tensors=tensors), verify=False)


@pytest.mark.parametrize("wrong", [torch.zeros(8, 256).double(), torch.zeros(8, 255), torch.zeros(256, 8)])
def test_values_of_another_shape_or_type_are_refused(tmp_path: Path, wrong: Tensor) -> None:
    job = replaced(float_job(tmp_path / "a.gguf"), "token_embd.weight", lambda part: wrong)
    with pytest.raises(ValueError, match="was read as"):
        convert(job, verify=False)


def test_a_plan_that_differs_from_its_layout_is_a_bug(tmp_path: Path) -> None:
    layout = gguf_layout(tmp_path / "a.gguf", (), [TensorSpec("a", block_type("F32"), (3,))])
    planned = PlannedTensor(source_of(torch.zeros(4), "a", 1), BlockCodec(block_type("F32")))
    with pytest.raises(ValueError, match="differ"):
        ConvertJob((planned,), layout)
