"""The work that is left behind a place of an output, in the order in which its bytes follow each other."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quant.convert.job_types import ConversionStopped, ConvertJob, PlannedTensor
from quant.convert.journal import RESTART_HINT
from quant.convert.output_layout import OutputTensor
from quant.convert.resume import Place
from quant.errors import OutputError


@dataclass(frozen=True)
class Piece:
    """Rows of one tensor that are read at once: (what is left of) a part, or all rows where they must not be split."""

    tensor: PlannedTensor
    rows: range
    part: int | None
    padding: int

    @property
    def is_exact(self) -> bool:
        """Whether the source has the very bytes that the output takes."""
        return self.part is not None and self.tensor.codec.name in self.tensor.source.exact

    @property
    def memory_bytes(self) -> int:
        """What reading and encoding it holds in memory, the values and the bytes that they become."""
        source = self.tensor.source
        read_rows = source.rows if self.part is None else len(source.rows_of(self.part))
        encoded = self.tensor.nbytes * read_rows // source.rows
        return encoded if self.is_exact else encoded + 4 * read_rows * source.cols

    def padding_after(self, row: int) -> int:
        """Zero bytes that follow when `row` is the one behind the last that was written."""
        return self.padding if row == self.tensor.source.rows else 0

    def read(self, cancelled: threading.Event) -> Tensor | np.ndarray:
        """Values float32 [rows, cols], or where `is_exact` bytes uint8 [rows, row bytes].

        Raises what the source raises, and ConversionStopped between two parts once nobody wants them any more.
        """
        source, part = self.tensor.source, self.part
        if part is None:
            return _all_rows(self.tensor, cancelled)
        before = self.rows.start - source.rows_of(part).start
        if self.is_exact:
            return source.read_exact(part, self.tensor.codec.name, row_bytes(self.tensor))[before:]
        return source.read_rows(part)[before:]


def row_bytes(tensor: PlannedTensor) -> int:
    """Bytes of one row of a tensor whose rows may be split."""
    return tensor.nbytes // tensor.source.rows


def pieces_after(job: ConvertJob, place: Place) -> Iterator[Piece]:
    """Everything that is left to be read and written. Raises OutputError for a place where no row begins."""
    for tensor, laid_out, written_bytes in _tensors_after(job, place):
        source = tensor.source
        if not tensor.codec.splits_rows:
            yield Piece(tensor, range(source.rows), None, laid_out.padding)
            continue
        first_row = written_bytes // row_bytes(tensor)
        for part in range(first_row // source.part_rows, source.parts):
            rows = source.rows_of(part)
            yield Piece(tensor, range(max(first_row, rows.start), rows.stop), part, laid_out.padding)


def weights_before(job: ConvertJob, place: Place) -> int:
    """How many weights are written when writing goes on at `place`."""
    left = 0
    for tensor, _, written_bytes in _tensors_after(job, place):
        done_rows = written_bytes // row_bytes(tensor) if written_bytes else 0
        left += tensor.source.weights - done_rows * tensor.source.cols
    return job.total_weights - left


def _tensors_after(job: ConvertJob, place: Place) -> Iterator[tuple[PlannedTensor, OutputTensor, int]]:
    """Tensors that are not complete at `place`, with the bytes that they have."""
    planned = iter(job.tensors)
    for number, file in enumerate(job.layout.files):
        if number == place.file and 0 < place.offset < len(file.header):
            raise OutputError(f"{job.layout.journal_path} ends within a header: {RESTART_HINT}")
        for laid_out, start in zip(file.tensors, file.starts, strict=True):
            tensor = next(planned)
            written = place.offset - start if number == place.file else 0
            if number < place.file or written >= laid_out.nbytes + laid_out.padding:
                continue
            written = max(written, 0)
            if written and (not tensor.codec.splits_rows or written % row_bytes(tensor) or written >= laid_out.nbytes):
                raise OutputError(f"{job.layout.journal_path} ends within a row of {laid_out.name}: {RESTART_HINT}")
            yield tensor, laid_out, written


def _all_rows(tensor: PlannedTensor, cancelled: threading.Event) -> Tensor:
    """A whole tensor, read part by part into its place."""
    source = tensor.source
    values = torch.empty(source.rows, source.cols)
    for part in range(source.parts):
        if cancelled.is_set():
            raise ConversionStopped(f"stopped while {source.name} was read")
        rows = source.rows_of(part)
        values[rows.start : rows.stop] = source.read_rows(part)
    return values
