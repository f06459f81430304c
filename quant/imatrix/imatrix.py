"""Using an importance matrix: how much an error in each column of a weight matters.

The importance of a column is the mean of its squared inputs, sum / count. Encoders take it as the weight of the squared
error of that column, so only ratios within a row matter.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from quant.closing import Closing
from quant.errors import ImatrixError
from quant.gguf.gguf_writer import MetadataEntry
from quant.imatrix.imatrix_file import ImatrixHeader, Statistics, StatisticsFile, open_statistics

# Inputs that were always zero would tell the encoders that nothing in these columns matters, and for a whole block of
# such columns some of them then write zeros. This share of the row's mean is small enough never to outweigh a column
# that was used (in large models single columns are 10^6 times the others), and large enough for float32 sums.
FLOOR = 1e-8
# A mean below is as good as zero: products with squared weights would vanish in float32.
SMALLEST_MEAN = 1e-25
# Beyond this, sums of importance * weight^2 may overflow in the encoders.
LARGEST = 1e20

_READ_BYTES = 1 << 20
_TWIN = re.compile(r"(.*\bffn_)(gate|up|gate_up)(_exps\.weight)")


class Imatrix(Closing):
    """An open importance matrix, ours or llama.cpp's. Its numbers stay on the drive until they are asked for.

    Opening reads the file once, weight by weight, so that what is wrong with it is found before hours of work.
    Every thread may use it.
    """

    def __init__(self, file: StatisticsFile, unseen: Mapping[str, tuple[int, ...]], digest: str) -> None:
        self.path = file.path
        self.digest = digest  # SHA-256 of the file, in hexadecimal
        self._file = file
        self._names = frozenset(file.names)
        self._unseen = dict(unseen)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a GGUF or .dat file. Raises ImatrixError, GgufError or UnsupportedError for one that cannot be used."""
        file = open_statistics(path)
        try:
            unseen = {}
            for name in file.names:
                entry = checked(path, name, file.read(name))
                missed = tuple(np.flatnonzero(entry.counts == 0).tolist())
                if missed:
                    unseen[name] = missed
            return cls(file, unseen, _digest(path))
        except BaseException:
            file.close()
            raise

    @property
    def header(self) -> ImatrixHeader:
        """The texts and how much of them was read."""
        return self._file.header

    @property
    def names(self) -> tuple[str, ...]:
        """The weights in the file."""
        return self._file.names

    def covers(self, name: str) -> bool:
        """Whether there is an importance for this weight."""
        return self._entry_name(name) is not None

    def unseen(self) -> dict[str, tuple[int, ...]]:
        """Experts that no token went to, by weight. All columns of theirs are equally important: 1.0."""
        return dict(self._unseen)

    def importance(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """float32 [slabs, cols], all above 0, for a weight of numpy shape `shape`; None where the file has none.

        Slabs are the entries of the slowest dimension of a 3-D weight (experts, heads), and 1 for others. Reads the
        file, so keep the result while it is needed. Raises ImatrixError when the file is of another model.
        """
        entry_name = self._entry_name(name)
        if entry_name is None:
            return None
        entry = self._file.read(entry_name)
        slabs, cols = (shape[0] if len(shape) == 3 else 1), shape[-1]
        groups = entry.counts.size
        if entry.sums.size != slabs * cols or (groups != 1 and groups != slabs):
            raise ImatrixError(
                f"{self.path} has {entry.sums.size} numbers in {groups} groups for {entry_name}, but {name} of shape "
                f"{list(shape)} takes {slabs} x {cols}: it was collected from another model"
            )
        seen = entry.counts[:, None] > 0
        means = np.divide(entry.sums, entry.counts[:, None], out=np.ones_like(entry.sums), where=seen)
        return _floored(torch.from_numpy(means).view(slabs, cols))

    def metadata(self) -> list[MetadataEntry]:
        """The keys that tell a reader of the quantized file which importance it was made with."""
        return [
            MetadataEntry("quantize.imatrix.file", "string", str(self.path)),
            MetadataEntry("quantize.imatrix.dataset", "string", ", ".join(self.header.datasets)),
            MetadataEntry("quantize.imatrix.entries_count", "uint32", len(self.names)),
            MetadataEntry("quantize.imatrix.chunks_count", "uint32", self.header.chunk_count),
        ]

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._file.close()

    def _entry_name(self, name: str) -> str | None:
        """The entry that serves a weight: its own, or that of a weight with the same inputs."""
        twin = _TWIN.fullmatch(name)
        if name in self._names or twin is None:
            return name if name in self._names else None
        others = (f"{twin[1]}{part}{twin[3]}" for part in ("gate", "up", "gate_up"))
        return next((other for other in others if other in self._names), None)


def unseen_lines(unseen: Mapping[str, Sequence[int]]) -> list[str]:
    """A line for people per set of weights of a layer that miss the same experts, as in "blk.3: 2 experts (4, 7-9)"."""
    layers: dict[tuple[str, tuple[int, ...]], None] = {}
    for name, experts in unseen.items():
        layers[name.rsplit(".", 2)[0], tuple(experts)] = None
    return [
        f"{layer}: {len(experts)} {'expert' if len(experts) == 1 else 'experts'} ({_ranges(experts)})"
        for layer, experts in layers
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """[4, 7, 8, 9] -> "4, 7-9" """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _floored(means: Tensor) -> Tensor:
    """Raise zeros and what is near them, slab by slab, to FLOOR of the slab's mean; a slab of zeros to 1.0."""
    average = means.double().mean(1, keepdim=True)
    floored = torch.maximum(means, (FLOOR * average).float())
    return torch.where(average > SMALLEST_MEAN, floored, torch.ones(()))


def checked(path: Path, name: str, entry: Statistics) -> Statistics:
    """Raises ImatrixError for what cannot be a mean of squares."""
    if not np.isfinite(entry.counts).all() or entry.counts.min() < 0:
        raise ImatrixError(f"{path}: the counts of {name} are negative or not finite: collect it again")
    low, high = float(entry.sums.min()), float(entry.sums.max())
    if not (low >= 0 and high < np.inf):  # false for NaN as well, which min and max pass on
        raise ImatrixError(f"{path}: the sums of {name} run from {low:.3g} to {high:.3g}: collect it again")
    seen = entry.counts > 0
    largest = float((entry.sums.max(1)[seen].astype(np.float64) / entry.counts[seen]).max(initial=0))
    if largest > LARGEST:
        raise ImatrixError(f"{path}: {name} has a mean of {largest:.3g}, but at most {LARGEST:.0e} can be used")
    return entry


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
