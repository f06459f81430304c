"""The readers of others open an output: what they find must be what was planned."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from quant.convert.codec import BlockCodec
from quant.convert.job_types import ConvertJob, PlannedTensor
from quant.convert.output_layout import OutputFile, OutputLayout, OutputTensor
from quant.convert.source_tensor import SourceTensor
from quant.convert.verify import verify
from quant.gguf.gguf_writer import MetadataEntry
from quant.types import block_type
from tests.quant.verify_samples import METADATA, gguf_job, refusal, write


def test_a_long_vocabulary_is_read_by_a_process_of_its_own(tmp_path: Path) -> None:
    tokens = [f"token {number}" for number in range(20_000)]
    job = gguf_job(tmp_path, metadata=(*METADATA, MetadataEntry("tokens", "array[string]", tokens)))
    assert len(job.layout.files[0].header) > 1 << 17
    assert verify(job, write(job)).witnesses[0].startswith("gguf ")
    file = job.layout.files[0]
    damaged = file.header.replace(b"blk.0.matrix.weight", b"blk.0.m%trix.weight")
    job = replace(job, layout=replace(job.layout, files=(OutputFile(file.path, damaged, file.tensors),)))
    assert "the gguf package does not read" in str(refusal(job, write(job)))


def mistaken(job: ConvertJob, right: bytes, wrong: bytes) -> ConvertJob:
    (file,) = job.layout.files
    assert file.header.count(right) == 1
    header = file.header.replace(right, wrong)
    return replace(job, layout=OutputLayout(job.layout.destination, (OutputFile(file.path, header, file.tensors),)))


def test_a_header_that_others_read_differently_is_refused(tmp_path: Path) -> None:
    right = gguf_job(tmp_path)
    job = mistaken(right, b"norm.weight", b"worm.weight")
    assert "it finds name worm.weight instead of norm.weight" in str(refusal(job, write(job)))
    job = mistaken(right, b"GGUF\x03", b"GGUF\x09")
    error = refusal(job, write(job))
    assert "the gguf package does not read" in str(error)
    assert "appears to be version 9" in str(error)
    assert error.stretch is None


def header_bytes(header: dict[str, Any]) -> bytes:
    """The start of a safetensors file."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def safetensors_job(folder: Path, header: bytes) -> ConvertJob:
    """A folder with one tensor, as BF16, and a file without any."""
    source = SourceTensor("model.weight", (4, 32), 4, lambda part: torch.ones(4, 32))
    destination = folder / "out"
    files = (
        OutputFile(destination / "model.safetensors", header, (OutputTensor("model.weight", 256),)),
        OutputFile(destination / "config.json", b"{}"),
    )
    tensors = (PlannedTensor(source, BlockCodec(block_type("BF16"))),)
    return ConvertJob(tensors, OutputLayout(destination, files, is_folder=True))


def test_safetensors_are_opened_with_their_own_package(tmp_path: Path) -> None:
    right = header_bytes({"model.weight": {"dtype": "BF16", "shape": [4, 32], "data_offsets": [0, 256]}})
    job = safetensors_job(tmp_path, right)
    found = verify(job, write(job))
    assert found.witnesses[0].startswith("safetensors ")
    assert [file.name for file in found.files] == ["model.safetensors", "config.json"]
    other = header_bytes({"m0del.weight": {"dtype": "BF16", "shape": [4, 32], "data_offsets": [0, 256]}})
    job = safetensors_job(tmp_path, other)
    assert "does not find model.weight" in str(refusal(job, write(job)))
    short = header_bytes({"model.weight": {"dtype": "BF16", "shape": [4, 16], "data_offsets": [0, 128]}})
    job = safetensors_job(tmp_path, short)
    assert "the safetensors package does not read" in str(refusal(job, write(job)))
