"""What a conversion would do, before it does anything: types, sizes, room on the drive, memory, time."""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from k2lite.quantize.quantize import OpenedJob
from quant.convert.job_types import ConvertJob, ConvertLimits, PlannedTensor, TypeTotal, type_totals
from quant.convert.sample import estimate

# Python, torch and ggml's libraries with their tables, measured.
_PROGRAM_BYTES = 450 * 1024**2


@dataclass(frozen=True)
class TensorPlan:
    """A tensor of the output. `exact`: its bytes are the source's, nothing is rounded."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    exact: bool

    @property
    def weights(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class QuantizePlan:
    """All figures are of the whole output, also when a part of it is there already.

    `held_bytes` are in part files of an earlier run; `free_bytes` is what the drive has beside them. `memory_bytes` is
    the most that the conversion will hold. `seconds` and `weights_per_s` are None without weights to measure with;
    they do not count verification.
    """

    source: Path
    stored_bytes: dict[str, int]
    destination: Path
    type: str
    tensors: tuple[TensorPlan, ...]
    types: dict[str, TypeTotal]
    files: int
    total_bytes: int
    held_bytes: int
    free_bytes: int
    memory_bytes: int
    seconds: float | None
    weights_per_s: float | None
    notes: tuple[str, ...]

    @property
    def weights(self) -> int:
        """Number of values."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Of the whole output, header included."""
        return 8 * self.total_bytes / self.weights

    @property
    def missing_bytes(self) -> int:
        """Room that the drive lacks, 0 when there is enough."""
        return max(0, self.total_bytes - self.held_bytes - self.free_bytes)


def plan_of(opened: OpenedJob, source: Path, *, threads: int | None = None, measure: bool = True) -> QuantizePlan:
    """The plan of an opened job. `measure` reads and encodes a little, about a second. Raises K2Error."""
    job = opened.job
    timed = estimate(job, threads) if measure and opened.complete else None
    layout = job.layout
    return QuantizePlan(
        source=source,
        stored_bytes=dict(opened.stored),
        destination=layout.destination,
        type=opened.type,
        tensors=tuple(map(_planned, job.tensors)),
        types=type_totals(job.tensors),
        files=len(layout.files),
        total_bytes=layout.total_bytes,
        held_bytes=sum(_allocated_bytes(layout.part_path(file)) for file in layout.files),
        free_bytes=shutil.disk_usage(_existing_folder(layout.destination)).free,
        memory_bytes=_memory_bytes(job, threads or len(os.sched_getaffinity(0))),
        seconds=timed.seconds if timed else None,
        weights_per_s=timed.weights_per_s if timed else None,
        notes=opened.notes,
    )


def _planned(tensor: PlannedTensor) -> TensorPlan:
    source, kind = tensor.source, tensor.codec.name
    return TensorPlan(source.name, kind, source.shape, tensor.nbytes, kind in source.exact)


def _memory_bytes(job: ConvertJob, threads: int) -> int:
    """What the pipeline may hold, the chunks in the encoders, and the largest part while it is decoded."""
    limits = ConvertLimits()
    part_weights = max(len(tensor.source.rows_of(0)) * tensor.source.cols for tensor in job.tensors)
    return _PROGRAM_BYTES + limits.memory_bytes + threads * 4 * limits.chunk_weights + 2 * 4 * part_weights


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _existing_folder(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())
