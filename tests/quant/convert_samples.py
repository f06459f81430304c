"""Small conversions: random tensors of a model's shapes, in parts as checkpoints bring them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quant.convert.codec import BlockCodec, Encoder
from quant.convert.job_types import ConvertJob, ConvertLimits, PlannedTensor
from quant.convert.output_layout import OutputFile, OutputLayout, OutputTensor
from quant.convert.source_tensor import SourceTensor
from quant.encode.encode import encode
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import MetadataEntry, TensorSpec
from quant.types import BlockType, block_type

METADATA = (MetadataEntry("general.architecture", "string", "deepseek2"),)

# Name -> shape, rows a part, type. Parts of one expert, of a few rows, of several slabs, and of everything.
TENSORS: dict[str, tuple[tuple[int, ...], int, str]] = {
    "token_embd.weight": ((70, 256), 16, "Q4_K"),
    "blk.0.attn_k_b.weight": ((4, 64, 128), 256, "Q5_0"),
    "blk.0.exp_probs_b.bias": ((8,), 1, "F32"),
    "blk.0.ffn_gate_inp.weight": ((8, 256), 8, "F32"),
    "blk.0.ffn_gate_exps.weight": ((8, 32, 256), 32, "Q4_K"),
    "blk.0.ffn_down_exps.weight": ((8, 256, 256), 256, "Q6_K"),
    "output_norm.weight": ((256,), 1, "F32"),
    "output.weight": ((70, 256), 70, "Q6_K"),
}
SHAPES = {name: shape for name, (shape, _, _) in TENSORS.items()}
WEIGHTS = sum(map(math.prod, SHAPES.values()))

# Chunks of 16 rows, a stretch for every chunk.
SMALL = ConvertLimits(stretch_bytes=1, chunk_weights=4096, memory_bytes=300_000)


def values_of(name: str, shape: tuple[int, ...]) -> Tensor:
    """float32 values that depend on the name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(name.encode())))


def source_of(values: Tensor, name: str, part_rows: int) -> SourceTensor:
    """A source that reads from values in memory."""
    rows = values.reshape(-1, values.shape[-1])
    parts = rows.split(part_rows)
    return SourceTensor(name, tuple(values.shape), part_rows, lambda part: parts[part])


def sources() -> list[SourceTensor]:
    """One source for each of TENSORS."""
    return [source_of(values_of(name, shape), name, part_rows) for name, (shape, part_rows, _) in TENSORS.items()]


def as_float32(values: Tensor, block: BlockType, importance: Tensor | None) -> np.ndarray:
    """An encoder that needs no library, for tests that are not about encoding."""
    return values.contiguous().numpy().reshape(-1).view(np.uint8)


def sample_job(
    destination: Path,
    *,
    tensors: list[SourceTensor] | None = None,
    types: Mapping[str, str] | None = None,
    encoder: Encoder = encode,
    shard_bytes: int | None = None,
    **fields: object,
) -> ConvertJob:
    """TENSORS, or others, to a GGUF file. `types` replaces types by tensor name, "" those of all."""
    tensors = tensors or sources()
    names = {name: kind for name, (_, _, kind) in TENSORS.items()} | dict(types or {})
    chosen = [block_type(names.get("", names.get(tensor.name, "F32"))) for tensor in tensors]
    specs = [TensorSpec(tensor.name, kind, tensor.shape) for tensor, kind in zip(tensors, chosen, strict=True)]
    planned = [
        PlannedTensor(tensor, BlockCodec(kind, encoder)) for tensor, kind in zip(tensors, chosen, strict=True)
    ]
    job = ConvertJob(tuple(planned), gguf_layout(destination, METADATA, specs, shard_bytes), {"type": "Q4_K_M"})
    return replace(job, **fields) if fields else job


def float_job(destination: Path, **options: object) -> ConvertJob:
    """All tensors as F32 by way of `as_float32`."""
    return sample_job(destination, types={"": "F32"}, encoder=as_float32, **options)


def replaced(job: ConvertJob, name: str, read: Callable[[int], Tensor]) -> ConvertJob:
    """The job with another way to read one tensor."""
    tensors = [
        replace(tensor, source=replace(tensor.source, read=read)) if tensor.source.name == name else tensor
        for tensor in job.tensors
    ]
    return replace(job, tensors=tuple(tensors))


def stopping_after(tensor_name: str, stop: object) -> Callable[[object], None]:
    """A progress callback that asks for a stop at the first chunk of a tensor."""

    def progress(state: object) -> None:
        if state.tensor_name == tensor_name:
            stop.set()

    return progress


def folder_layout(destination: Path, job: ConvertJob) -> OutputLayout:
    """The tensors of a job in two files of a folder, and a third without tensors, as other formats have it."""
    data = [OutputTensor(tensor.source.name, tensor.nbytes) for tensor in job.tensors]
    files = (
        OutputFile(destination / "config.json", b"{}"),
        OutputFile(destination / "a.bin", b"AAAA", tuple(data[:5])),
        OutputFile(destination / "b.bin", b"BBBBBB", tuple(data[5:])),
        OutputFile(destination / "tokenizer.json", b"[]"),
    )
    return OutputLayout(destination, files, is_folder=True)
