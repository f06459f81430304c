"""One conversion: right bytes whatever the threads, the codec and the layout, and a report that adds up."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from quant.convert.codec import BlockCodec
from quant.convert.job import convert
from quant.convert.job_types import ConvertLimits, ConvertProgress, PlannedTensor
from quant.convert.source_tensor import SourceTensor
from quant.encode.encode import encode
from quant.errors import OutputError
from quant.gguf.gguf_file import GgufFile
from quant.types import block_type
from tests.quant.convert_samples import (
    SHAPES,
    SMALL,
    TENSORS,
    WEIGHTS,
    float_job,
    folder_layout,
    sample_job,
    values_of,
)


def test_every_tensor_holds_its_own_encoded_bytes(tmp_path: Path) -> None:
    convert(sample_job(tmp_path / "a.gguf"), threads=3, verify=False, limits=SMALL)
    with GgufFile.open(tmp_path / "a.gguf") as file:
        assert file.metadata == {"general.architecture": "deepseek2"}
        assert {name: info.shape for name, info in file.tensors.items()} == SHAPES
        for name, (shape, _, kind) in TENSORS.items():
            tensor = file.tensor(name)
            assert tensor.type.name == kind
            assert np.array_equal(tensor.data, encode(values_of(name, shape), block_type(kind))), name
    assert len(gguf.GGUFReader(tmp_path / "a.gguf").tensors) == len(SHAPES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_the_file_depends_on_neither_threads_nor_chunks_nor_memory(tmp_path: Path) -> None:
    contents = set()
    for threads, chunk_weights, memory_bytes in ((1, 1, 1), (4, 4096, 300_000), (2, 1 << 22, 1 << 30)):
        path = tmp_path / f"{threads}.gguf"
        limits = ConvertLimits(chunk_weights=chunk_weights, memory_bytes=memory_bytes)
        convert(sample_job(path), threads=threads, verify=False, limits=limits)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_what_the_source_has_exactly_is_not_encoded(tmp_path: Path) -> None:
    exact, shape = block_type("Q4_0"), (6, 64)
    data = encode(torch.randn(shape, generator=torch.Generator().manual_seed(0)), exact)

    def never(part: int) -> Tensor:
        raise AssertionError("values must not be decoded")

    def repack(part: int) -> np.ndarray:
        return data.reshape(6, -1)[4 * part : 4 * part + 4].reshape(-1)

    source = SourceTensor("a", shape, 4, never, {"Q4_0": repack})
    report = convert(sample_job(tmp_path / "a.gguf", tensors=[source], types={"a": "Q4_0"}), verify=False)
    with GgufFile.open(tmp_path / "a.gguf") as file:
        assert np.array_equal(file.tensor("a").data, data)
    assert report.work.copied_weights == 6 * 64 and report.work.encoded_weights == 0


def test_each_slab_is_encoded_with_its_own_importance(tmp_path: Path) -> None:
    importance = {
        name: torch.rand(shape[0] if len(shape) == 3 else 1, shape[-1], generator=torch.Generator().manual_seed(1))
        for name, shape in SHAPES.items()
        if len(shape) > 1 and name != "output.weight"
    }
    job = sample_job(tmp_path / "a.gguf", importance=lambda name, shape: importance.get(name))
    convert(job, threads=2, verify=False, limits=ConvertLimits(chunk_weights=5000))
    with GgufFile.open(tmp_path / "a.gguf") as file:
        for name, (shape, _, kind) in TENSORS.items():
            slabs = values_of(name, shape).reshape(shape[0] if len(shape) == 3 else 1, -1, shape[-1])
            weights = importance.get(name, [None] * len(slabs))
            expected = [encode(slab, block_type(kind), weight) for slab, weight in zip(slabs, weights, strict=True)]
            assert np.array_equal(file.tensor(name).data, np.concatenate(expected)), name


def test_a_codec_that_does_not_split_rows_gets_all_of_them(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    class Whole(BlockCodec):
        splits_rows = False

        def encode(self, rows: Tensor, importance: Tensor | None) -> np.ndarray:
            seen.append(tuple(rows.shape))
            return super().encode(rows, importance)

    plain = sample_job(tmp_path / "a.gguf")
    whole = replace(plain, tensors=tuple(PlannedTensor(t.source, Whole(t.codec.type)) for t in plain.tensors))
    convert(whole, threads=2, verify=False, limits=SMALL)
    assert seen == [(math.prod(shape[:-1]), shape[-1]) for shape in SHAPES.values()]
    convert(sample_job(tmp_path / "b.gguf"), verify=False)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_report_adds_up(tmp_path: Path) -> None:
    report = convert(sample_job(tmp_path / "a.gguf"), verify=False)
    assert report.path == tmp_path / "a.gguf" and report.files == (report.path,)
    assert report.file_bytes == report.path.stat().st_size
    assert list(report.types) == ["Q6_K", "Q4_K", "Q5_0", "F32"]
    assert sum(total.weights for total in report.types.values()) == WEIGHTS
    assert report.types["Q5_0"].nbytes == block_type("Q5_0").row_bytes(128) * 4 * 64
    assert report.types["F32"].tensors == 3
    assert report.work.encoded_weights == WEIGHTS and report.work.resumed_bytes == report.work.copied_weights == 0
    assert report.seconds > 0


def test_progress_counts_up_to_everything(tmp_path: Path) -> None:
    seen: list[ConvertProgress] = []
    report = convert(sample_job(tmp_path / "a.gguf"), progress=seen.append, verify=False)
    assert list(dict.fromkeys(item.tensor_name for item in seen)) == list(SHAPES)
    for before, after in pairwise(seen):
        assert before.done_weights < after.done_weights
        assert before.written_bytes < after.written_bytes
        assert before.elapsed_s <= after.elapsed_s
    assert {item.phase for item in seen} == {"writing"}
    assert seen[-1].done_weights == seen[-1].total_weights == WEIGHTS
    assert seen[-1].written_bytes == seen[-1].total_bytes == report.file_bytes


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    job = float_job(tmp_path / "out")
    job = replace(job, layout=folder_layout(tmp_path / "out", job))
    report = convert(job, verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and report.path == tmp_path / "out"
    contents = {path.name: path.read_bytes() for path in report.files}
    arrays = [values_of(name, shape).numpy().tobytes() for name, shape in SHAPES.items()]
    assert contents == {
        "config.json": b"{}",
        "a.bin": b"AAAA" + b"".join(arrays[:5]),
        "b.bin": b"BBBBBB" + b"".join(arrays[5:]),
        "tokenizer.json": b"[]",
    }


def test_foreign_files_in_the_working_folder_are_not_made_part_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "mine").write_text("precious")
    job = float_job(tmp_path / "out")
    with pytest.raises(OutputError, match="move away what is in it"):
        convert(replace(job, layout=folder_layout(tmp_path / "out", job)), verify=False)
    assert (tmp_path / "out.part" / "mine").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.part"]
