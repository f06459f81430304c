"""Comparing what was written with the source: some rows of every tensor, chosen by a seed."""

import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quant.convert.error_bounds import RowErrors, error_bound, measure_rows
from quant.convert.job_types import ConvertJob, PlannedTensor, Stretch
from quant.convert.verify_files import ADVICE, opened
from quant.convert.verify_result import TensorErrors, VerificationError

# A few rows show what is shifted or garbled, several experts that some are exchanged. A whole part is read and decoded
# for its rows, so there are few: some 1,300 of K2's 1,096 tensors, two minutes beside hours of encoding.
_PARTS_OF_STACK = 2
_ROWS = 16

# Tensors whose rows cannot be decoded alone are decoded whole for a few rows. In an NF4 folder K2 has 70,000 of them:
# this many weights, some minutes' work, are chosen. No tensor of more than 256 MiB as float32 is.
_WHOLE_WEIGHTS = 1 << 31
_LARGEST_WHOLE = 1 << 26


@dataclass(frozen=True)
class Sample:
    """Some `rows`, counted from the tensor's first one, of one part of a tensor.

    The tensor's bytes begin at `start` of `path`, the part file of file number `file`.
    """

    tensor: PlannedTensor
    file: int
    path: Path
    start: int
    part: int
    rows: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row. Without meaning for a codec that does not split rows."""
        return self.tensor.nbytes // self.tensor.source.rows


@dataclass(frozen=True)
class SampleErrors:
    """What was found about a sample; `weighted` says whether there was an importance."""

    sample: Sample
    errors: RowErrors
    weighted: bool


def samples(job: ConvertJob, seed: int) -> Iterator[Sample]:
    """What to compare: a part of each tensor, two of stacks, in the order of the output. Equal seeds choose alike."""
    left_out = _left_out(job, seed)
    planned = iter(job.tensors)
    for number, file in enumerate(job.layout.files):
        path = job.layout.part_path(file)
        for start in file.starts:
            tensor = next(planned)
            source = tensor.source
            if source.name in left_out:
                continue
            dice = random.Random(f"{seed} {source.name}")
            count = min(source.parts, _PARTS_OF_STACK) if source.slabs > 1 else 1
            for part in sorted(dice.sample(range(source.parts), count)):
                yield Sample(tensor, number, path, start, part, _some(source.rows_of(part), dice))


def _left_out(job: ConvertJob, seed: int) -> set[str]:
    """Tensors that would have to be decoded whole, beyond what is worth the time."""
    whole = [tensor.source for tensor in job.tensors if not tensor.codec.splits_rows]
    random.Random(seed).shuffle(whole)
    names, weights = set(), 0
    for source in whole:
        weights += source.weights
        if weights > _WHOLE_WEIGHTS or source.weights > _LARGEST_WHOLE:
            names.add(source.name)
            weights -= source.weights
    return names


def _some(rows: range, dice: random.Random) -> tuple[int, ...]:
    """The first and the last row, where mistakes begin and end, and some between."""
    return tuple(rows) if len(rows) <= _ROWS else (rows[0], *sorted(dice.sample(rows[1:-1], _ROWS - 2)), rows[-1])


def compare(job: ConvertJob, sample: Sample, stretches: Sequence[Stretch]) -> SampleErrors:
    """Read a sample from source and output. Raises VerificationError for a row that is wrong.

    A row beyond its type's bound is right if the encoder makes the same bytes of it again: some types cannot hold
    every pattern. Such rows are in `beyond` of what is returned. Raises what reading the source raises, too.
    """
    codec, source = sample.tensor.codec, sample.tensor.source
    written = _written(sample)
    if codec.splits_rows:
        if codec.name in source.exact:
            _check_exact(sample, written, stretches)
        decoded = codec.decode(written.reshape(-1), (len(sample.rows), source.cols))
    else:
        decoded = codec.decode(written, source.shape).reshape(source.rows, source.cols)[list(sample.rows)]
    values = source.read_rows(sample.part)[_in_part(sample)]
    importance = _importance(job, sample)
    errors = measure_rows(error_bound(codec.name), values, decoded, importance)
    for index in errors.beyond:
        if not _is_encoders_own(sample, index, written, values, importance):
            raise _wrong(sample, index, f"is off by {errors.worst:.2g} times what {codec.name} allows", stretches)
        if not codec.splits_rows:
            break  # the whole tensor was encoded once more
    return SampleErrors(sample, errors, importance is not None)


def summary(found: Sequence[SampleErrors]) -> TensorErrors:
    """All samples of one tensor together. Raises VerificationError when its type cannot hold most of their rows."""
    tensor = found[0].sample.tensor
    rows, beyond = sum(len(each.sample.rows) for each in found), sum(len(each.errors.beyond) for each in found)
    if 2 * beyond > rows:
        raise VerificationError(
            f"{tensor.codec.name} cannot hold {tensor.source.name}: in {beyond} of {rows} rows the error is beyond "
            f"what is usual. Choose another type for it (--tensor-type), or keep it with --no-verify",
            None,
        )
    error, value = _sum(found, "squared_error"), _sum(found, "squared_value")
    weighted_error, weighted_value = _sum(found, "weighted_error"), _sum(found, "weighted_value")
    return TensorErrors(
        rows,
        math.sqrt(error / (rows * tensor.source.cols)),
        _relative(error, value),
        _relative(weighted_error, weighted_value) if found[0].weighted else None,
        beyond,
    )


def _sum(found: Sequence[SampleErrors], field: str) -> float:
    return sum(getattr(each.errors, field) for each in found)


def _relative(error: float, value: float) -> float:
    """Root of a ratio; rows of zeros that stayed zeros have no error."""
    return math.sqrt(error / value) if value else 0.0


def _written(sample: Sample) -> np.ndarray:
    """The bytes in the output: uint8 [rows, row bytes], or all of a tensor that is not split."""
    with opened(sample.path) as descriptor:
        if not sample.tensor.codec.splits_rows:
            return _read(descriptor, sample, sample.start, sample.tensor.nbytes)
        size = sample.row_bytes
        return np.stack([_read(descriptor, sample, sample.start + row * size, size) for row in sample.rows])


def _read(descriptor: int, sample: Sample, offset: int, size: int) -> np.ndarray:
    try:
        data = os.pread(descriptor, size, offset)
    except OSError as error:
        raise VerificationError(f"cannot read {sample.path} back: {error.strerror}: {ADVICE}", None) from error
    if len(data) < size:
        raise VerificationError(f"{sample.path} is cut off at byte {offset + len(data):,}: {ADVICE}", None)
    return np.frombuffer(data, np.uint8)


def _in_part(sample: Sample) -> list[int]:
    """The sample's rows counted from the first one of its part."""
    first = sample.tensor.source.rows_of(sample.part).start
    return [row - first for row in sample.rows]


def _importance(job: ConvertJob, sample: Sample) -> Tensor | None:
    """A weight for every value of the sample, float32 [rows, cols], None without importance."""
    source = sample.tensor.source
    by_slab = job.importance(source.name, source.shape) if job.importance else None
    if by_slab is None:
        return None
    rows_of_slab = source.rows // source.slabs
    return by_slab[[row // rows_of_slab for row in sample.rows]]


def _check_exact(sample: Sample, written: np.ndarray, stretches: Sequence[Stretch]) -> None:
    """What the source has in the very type must be there bit by bit."""
    source, name = sample.tensor.source, sample.tensor.codec.name
    expected = source.read_exact(sample.part, name, sample.row_bytes)[_in_part(sample)]
    for index in (written != expected).any(axis=1).nonzero()[0]:
        raise _wrong(sample, int(index), "differs from the bytes of the source", stretches)


def _is_encoders_own(
    sample: Sample, index: int, written: np.ndarray, values: Tensor, importance: Tensor | None
) -> bool:
    """Whether encoding a row (or the whole tensor, where it is not split) once more gives the same bytes."""
    codec, source = sample.tensor.codec, sample.tensor.source
    columns = None if importance is None else importance[index]
    if codec.splits_rows:
        return np.array_equal(codec.encode(values[index : index + 1], columns), written[index])
    whole = torch.cat([source.read_rows(part) for part in range(source.parts)])
    return np.array_equal(codec.encode(whole, columns), written)


def _wrong(sample: Sample, index: int, what: str, stretches: Sequence[Stretch]) -> VerificationError:
    source, row = sample.tensor.source, sample.rows[index]
    offset = sample.start + (row * sample.row_bytes if sample.tensor.codec.splits_rows else 0)
    slab = f" (slab {row // (source.rows // source.slabs)})" if source.slabs > 1 else ""
    bad = (s for s in stretches if s.file == sample.file and s.start <= offset < s.end)
    return VerificationError(
        f"{source.name}: row {row}{slab}, at byte {offset:,} of {sample.path}, {what}, compared with the source: "
        f"{ADVICE}",
        next(bad, None),
    )
