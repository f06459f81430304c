"""Rows are compared with the source: bytes that mean something else are found though their digests are right."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.checkpoint.safetensors_layout import ShardEntry, shard_files
from quant.convert.codec import BlockCodec
from quant.convert.job_types import ConvertJob, PlannedTensor
from quant.convert.output_layout import OutputLayout
from quant.convert.source_tensor import SourceTensor
from quant.convert.verify import verify
from quant.nf4.tensors import Nf4Codec, stored_parts
from quant.types import block_type
from tests.quant.verify_samples import encoded, gguf_job, planned, refusal, start_of, write


def test_exchanged_experts_are_found_though_their_digests_are_right(tmp_path: Path) -> None:
    job = gguf_job(tmp_path)
    name = "blk.1.experts.weight"
    size = job.tensors[2].nbytes // 2
    data = encoded(job.tensors[2])
    stretches = write(job, {name: data[size:] + data[:size]})
    error = refusal(job, stretches)
    assert str(error).startswith(f"{name}: row 0 (slab 0), at byte {start_of(job, name):,} of ")
    assert "times what Q4_K allows" in str(error)
    assert error.stretch is not None
    assert error.stretch.start <= start_of(job, name) < error.stretch.end


def test_a_wrong_row_is_placed(tmp_path: Path) -> None:
    job = gguf_job(tmp_path)
    name, row_bytes = "blk.0.matrix.weight", 420
    data = bytearray(encoded(job.tensors[1]))
    data[39 * row_bytes :] = data[:row_bytes]
    stretches = write(job, {name: bytes(data)})
    error = refusal(job, stretches)
    offset = start_of(job, name) + 39 * row_bytes
    assert str(error).startswith(f"{name}: row 39, at byte {offset:,} of ")
    assert error.stretch == next(s for s in stretches if s.start <= offset < s.end)


def test_equal_seeds_choose_equal_rows(tmp_path: Path) -> None:
    job = gguf_job(tmp_path)
    stretches = write(job)
    first, again, other = (verify(job, stretches, seed=seed).tensors for seed in (0, 0, 1))
    assert first == again != other


def with_exact(tensor: PlannedTensor, data: bytes) -> PlannedTensor:
    """The same tensor, of which the source has `data` in the type that is written."""
    size = tensor.nbytes // tensor.source.parts
    source = tensor.source

    def exact(part: int) -> np.ndarray:
        return np.frombuffer(data[part * size : (part + 1) * size], np.uint8)

    return replace(tensor, source=replace(source, exact={tensor.codec.name: exact}))


def test_exact_bytes_must_be_those_of_the_source(tmp_path: Path) -> None:
    tensors = planned()
    right = encoded(tensors[2])
    last_row = len(right) - 144
    # Another code in the last byte: well within the error that Q4_K may have, but not what the source says.
    wrong = right[:-1] + bytes([right[-1] ^ 0x10])
    job = gguf_job(tmp_path, (*tensors[:2], with_exact(tensors[2], right)))
    verify(job, write(job))
    error = refusal(job, write(job, {"blk.1.experts.weight": wrong}))
    offset = start_of(job, "blk.1.experts.weight") + last_row
    assert f"row 71 (slab 1), at byte {offset:,}" in str(error)
    assert "differs from the bytes of the source" in str(error)


def test_importance_is_the_one_of_the_slab_and_gives_a_weighted_error(tmp_path: Path) -> None:
    weights = torch.exp(2 * torch.randn(2, 256, generator=torch.Generator().manual_seed(3)))
    by_name = {"blk.1.experts.weight": weights}
    job = replace(gguf_job(tmp_path), importance=lambda name, shape: by_name.get(name))
    found = verify(job, write(job)).tensors
    assert found["blk.0.matrix.weight"].weighted_relative_rmse is None
    errors = found["blk.1.experts.weight"]
    assert errors.weighted_relative_rmse is not None
    assert errors.weighted_relative_rmse < errors.relative_rmse
    turned = replace(job, importance=lambda name, shape: weights.flip(0) if name in by_name else None)
    other = verify(turned, write(job)).tensors["blk.1.experts.weight"]
    assert other.weighted_relative_rmse is not None
    assert other.weighted_relative_rmse > errors.weighted_relative_rmse


def spiked(rows: int, bad: Sequence[int]) -> Tensor:
    """Rows that IQ3_S holds, and rows of half zeros that it does not."""
    result = torch.randn(rows, 256, generator=torch.Generator().manual_seed(0))
    result.view(rows, -1, 32)[list(bad), ::2] = 0
    return result


def coarse_job(folder: Path, bad: Sequence[int]) -> ConvertJob:
    source = SourceTensor("matrix.weight", (8, 256), 8, lambda part: spiked(8, bad))
    return gguf_job(folder, (PlannedTensor(source, BlockCodec(block_type("IQ3_S"))),))


def test_rows_that_a_type_cannot_hold_are_counted_when_they_are_the_encoders_own(tmp_path: Path) -> None:
    job = coarse_job(tmp_path, [2, 5])
    assert verify(job, write(job)).tensors["matrix.weight"].beyond == 2
    data = bytearray(encoded(job.tensors[0]))
    data[2 * 110 + 10] ^= 0xFF
    assert str(refusal(job, write(job, {"matrix.weight": bytes(data)}))).startswith("matrix.weight: row 2, at byte ")


def test_a_type_that_cannot_hold_most_rows_is_refused(tmp_path: Path) -> None:
    job = coarse_job(tmp_path, range(1, 8))
    error = refusal(job, write(job))
    assert str(error).startswith("IQ3_S cannot hold matrix.weight: in 7 of 8 rows")
    assert "--tensor-type" in str(error)
    assert error.stretch is None


def nf4_job(folder: Path, double_quant: bool) -> ConvertJob:
    """Two matrices in NF4, the second of which has tiny rows beside large ones."""
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(64, 128, generator=generator) for name in "ab"}
    values["b"][::2] *= 1e-4
    tensors, entries = [], []
    for name, matrix in values.items():
        source = SourceTensor(name, (64, 128), 32, lambda part, m=matrix: m[32 * part : 32 * part + 32])
        tensors.append(PlannedTensor(source, Nf4Codec(double_quant)))
        entries.append(ShardEntry(name, tuple(stored_parts((64, 128), double_quant))))
    destination = folder / "out"
    return ConvertJob(tuple(tensors), OutputLayout(destination, shard_files(destination, [entries]), is_folder=True))


@pytest.mark.parametrize("double_quant", [False, True])
def test_tensors_that_are_not_split_are_compared_too(tmp_path: Path, double_quant: bool) -> None:
    job = nf4_job(tmp_path, double_quant)
    found = verify(job, write(job))
    assert found.witnesses[0].startswith("safetensors ")
    assert found.tensors["a"].relative_rmse == pytest.approx(0.096, rel=0.1)
    assert found.tensors["b"].beyond == (8 if double_quant else 0), "shared factors do not hold tiny rows: NF4's own"
    error = refusal(job, write(job, {"a": encoded(job.tensors[1])}))
    assert str(error).startswith("a: row ")
    assert error.stretch is not None


def test_of_many_tensors_that_are_not_split_some_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = nf4_job(tmp_path, False)
    stretches = write(job)
    monkeypatch.setattr("quant.convert.verify_rows._WHOLE_WEIGHTS", 64 * 128)
    assert {tuple(verify(job, stretches, seed=seed).tensors) for seed in range(8)} == {("a",), ("b",)}
