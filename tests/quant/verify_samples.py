"""Small outputs to verify: part files as a conversion leaves them, right or with other bytes in them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quant.convert.codec import BlockCodec
from quant.convert.job_types import ConvertJob, PlannedTensor, Stretch
from quant.convert.resume import new_digest
from quant.convert.source_tensor import SourceTensor
from quant.convert.verify import verify
from quant.convert.verify_result import VerificationError
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import MetadataEntry, TensorSpec
from quant.types import block_type

STRETCH_BYTES = 9_000
SHAPES = {"norm.weight": (256,), "blk.0.matrix.weight": (40, 512), "blk.1.experts.weight": (2, 36, 256)}
TYPES = {"norm.weight": "F32", "blk.0.matrix.weight": "Q6_K", "blk.1.experts.weight": "Q4_K"}
METADATA = (MetadataEntry("general.architecture", "string", "test"),)


def values(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return torch.randn(SHAPES[name], generator=generator) * 0.02


def source(name: str) -> SourceTensor:
    """A part is a slab of a 3-D tensor, else all rows."""
    shape = SHAPES[name]
    part_rows = shape[-2] if len(shape) > 1 else 1
    rows = values(name).reshape(-1, shape[-1])
    return SourceTensor(name, shape, part_rows, lambda part: rows[part * part_rows : (part + 1) * part_rows])


def planned() -> tuple[PlannedTensor, ...]:
    return tuple(PlannedTensor(source(name), BlockCodec(block_type(TYPES[name]))) for name in SHAPES)


def gguf_job(
    folder: Path,
    tensors: tuple[PlannedTensor, ...] | None = None,
    metadata: Sequence[MetadataEntry] = METADATA,
    shard_bytes: int | None = None,
) -> ConvertJob:
    tensors = tensors or planned()
    specs = [TensorSpec(t.source.name, block_type(t.codec.name), t.source.shape) for t in tensors]
    return ConvertJob(tensors, gguf_layout(folder / "out.gguf", metadata, specs, shard_bytes))


def encoded(tensor: PlannedTensor, importance: Tensor | None = None) -> bytes:
    """A whole tensor, with the importance of each slab."""
    source = tensor.source
    rows = torch.cat([source.read_rows(part) for part in range(source.parts)])
    slabs = rows.split(source.rows // source.slabs)
    weights = [None] * source.slabs if importance is None else list(importance)
    return b"".join(tensor.codec.encode(slab, w).tobytes() for slab, w in zip(slabs, weights, strict=True))


def write(job: ConvertJob, changed: dict[str, bytes] | None = None) -> tuple[Stretch, ...]:
    """The part files of a job, and what its journal would say. `changed` bytes are written for a tensor instead."""
    by_name = {t.source.name: t for t in job.tensors}
    stretches = []
    for number, file in enumerate(job.layout.files):
        content = file.header
        for laid_out in file.tensors:
            data = (changed or {}).get(laid_out.name)
            if data is None:
                name, shape = laid_out.name, by_name[laid_out.name].source.shape
                data = encoded(by_name[name], job.importance(name, shape) if job.importance else None)
            content += data + bytes(laid_out.padding)
        job.layout.part_path(file).parent.mkdir(exist_ok=True)
        job.layout.part_path(file).write_bytes(content)
        for start in range(0, len(content), STRETCH_BYTES):
            piece, digest = content[start : start + STRETCH_BYTES], new_digest()
            digest.update(piece)
            stretches.append(Stretch(number, start, start + len(piece), digest.hexdigest()))
    return tuple(stretches)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def refusal(job: ConvertJob, stretches: Sequence[Stretch]) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify(job, stretches, threads=2)
    return caught.value


def start_of(job: ConvertJob, name: str) -> int:
    (file,) = job.layout.files
    return dict(zip([t.name for t in file.tensors], file.starts, strict=True))[name]
