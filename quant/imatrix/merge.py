"""Several importance matrices into one, as if their texts had been read in one run."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from quant.errors import ImatrixError, OutputError
from quant.imatrix.imatrix import checked
from quant.imatrix.imatrix_file import ImatrixHeader, Statistics, StatisticsFile, open_statistics, write_statistics


def merge_imatrices(sources: Sequence[Path], destination: Path) -> ImatrixHeader:
    """Add up the sums and counts of `sources`, one weight at a time, and unite their texts. Returns what was written.

    A weight may be missing in some of them. Raises ImatrixError, GgufError, UnsupportedError or OutputError.
    """
    if os.path.lexists(destination):
        raise OutputError(f"{destination} exists already: delete it or choose another name")
    with ExitStack() as stack:
        files = []
        for path in sources:
            files.append(open_statistics(path))
            stack.callback(files[-1].close)
        header = _united(files)
        shapes = _shapes(files)
        write_statistics(destination, header, shapes, _sums(files, sorted(shapes)))
    return header


def _united(files: Sequence[StatisticsFile]) -> ImatrixHeader:
    datasets: dict[str, None] = {}
    tokens = 0
    for file in files:
        if not file.header.chunk_size:
            raise ImatrixError(f"{file.path} does not say how much text it was made from: merge GGUF files only")
        datasets |= dict.fromkeys(file.header.datasets)
        tokens += file.header.chunk_count * file.header.chunk_size
    chunk_size = files[0].header.chunk_size
    return ImatrixHeader(tuple(datasets), tokens // chunk_size, chunk_size)


def _shapes(files: Sequence[StatisticsFile]) -> dict[str, tuple[int, int]]:
    """(groups, cols) by weight, in alphabetical order. Raises ImatrixError where two files differ."""
    found: dict[str, tuple[tuple[int, int], Path]] = {}
    for file in files:
        for name in file.names:
            shape = file.shape(name)
            first, path = found.setdefault(name, (shape, file.path))
            if shape != first:
                raise ImatrixError(
                    f"{name} has {shape[0]} x {shape[1]} numbers in {file.path}, but {first[0]} x {first[1]} in "
                    f"{path}: they were collected from different models"
                )
    return {name: found[name][0] for name in sorted(found)}


def _sums(files: Sequence[StatisticsFile], names: Sequence[str]) -> Iterator[tuple[str, Statistics]]:
    for name in names:
        entries = [checked(file.path, name, file.read(name)) for file in files if name in file.names]
        sums, counts = entries[0].sums.astype(np.float64), entries[0].counts.astype(np.float64)
        for entry in entries[1:]:
            sums += entry.sums
            counts += entry.counts
        yield name, Statistics(sums.astype(np.float32), counts.astype(np.float32))
