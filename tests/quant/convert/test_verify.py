"""Verification as a whole: right outputs pass with figures, and it can be watched and stopped."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from quant.convert.job_types import ConversionStopped
from quant.convert.verify import verify
from quant.convert.verify_result import Verification
from quant.errors import CheckpointError
from tests.quant.verify_samples import SHAPES, flip, gguf_job, refusal, write


def test_a_right_file_passes_with_its_figures(tmp_path: Path) -> None:
    job = gguf_job(tmp_path)
    stretches = write(job)
    found = verify(job, stretches, threads=2)
    content = (tmp_path / "out.gguf.part").read_bytes()
    (file,) = found.files
    assert (file.name, file.nbytes) == ("out.gguf", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert found.stretches == len(stretches) > 2
    assert found.witnesses[0].startswith("gguf ")
    assert list(found.tensors) == list(SHAPES)
    assert found.tensors["norm.weight"].rmse == 0
    assert found.tensors["blk.1.experts.weight"].rows == 2 * 16, "16 rows of both experts"
    for name, expected in {"blk.0.matrix.weight": 0.018, "blk.1.experts.weight": 0.072}.items():
        errors = found.tensors[name]
        assert errors.relative_rmse == pytest.approx(expected, rel=0.1)
        assert errors.rmse == pytest.approx(0.02 * expected, rel=0.15)
        assert errors.weighted_relative_rmse is None
        assert errors.beyond == 0


def test_a_source_that_is_gone_is_told_as_such(tmp_path: Path) -> None:
    def gone(part: int) -> Tensor:
        raise CheckpointError("model-00001.safetensors is gone")

    job = gguf_job(tmp_path)
    stretches = write(job)
    tensors = (*job.tensors[:2], replace(job.tensors[2], source=replace(job.tensors[2].source, read=gone)))
    with pytest.raises(CheckpointError, match="is gone"):
        verify(replace(job, tensors=tensors), stretches)


def test_progress_counts_all_bytes_and_names_tensors(tmp_path: Path) -> None:
    job = gguf_job(tmp_path)
    told: list[tuple[int, str]] = []
    verify(job, write(job), progress=lambda nbytes, name: told.append((nbytes, name)))
    counts = [nbytes for nbytes, _ in told]
    assert counts == sorted(counts)
    assert counts[-1] == job.layout.total_bytes
    assert {name for _, name in told} == {"the header", *SHAPES}


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_stop_is_heeded(tmp_path: Path, after: int) -> None:
    """Set while bytes are read back, or once rows are compared."""
    job = gguf_job(tmp_path)
    stretches = write(job)
    stop, calls = threading.Event(), []

    def progress(nbytes: int, name: str) -> None:
        calls.append(name)
        if len(calls) == after:
            stop.set()

    with pytest.raises(ConversionStopped, match="everything is written"):
        verify(job, stretches, progress=progress, stop=stop)
    assert len(calls) == after


def test_shards_are_verified_one_by_one(tmp_path: Path) -> None:
    job = gguf_job(tmp_path, shard_bytes=20_000)
    stretches = write(job)
    found: Verification = verify(job, stretches, threads=2)
    assert [file.name for file in found.files] == ["out-00001-of-00002.gguf", "out-00002-of-00002.gguf"]
    assert list(found.tensors) == list(SHAPES)
    flip(tmp_path / "out-00002-of-00002.gguf.part", 9_000)
    error = refusal(job, stretches)
    assert error.stretch is not None
    assert error.stretch.file == 1
    assert str(error).startswith("blk.1.experts.weight is not on the drive as it was written")
