"""What is in a model file or a checkpoint folder, without reading its weights."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k2lite.inspection.imatrix import StatisticsSummary, is_imatrix, statistics
from quant.checkpoint.checkpoint import Checkpoint
from quant.checkpoint.entries import TensorEntry
from quant.convert.report import OutputReport, report_path
from quant.convert.report_file import ReportError, load_report
from quant.files.paths import is_folder
from quant.gguf.gguf_file import GgufFile
from quant.gguf.number_array import NumberArray
from quant.nf4.nf4_file import Nf4Folder, is_nf4_folder

# Longer lists (the vocabulary has 163,840 entries) are told by their length and their beginning.
_WHOLE_LIST = 16
_SHOWN_ENTRIES = 4


@dataclass(frozen=True)
class TensorSummary:
    """One tensor: its type or storage, numpy shape and the bytes it takes on the drive, scales included."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def weights(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inspection:
    """A model on the drive. `metadata` are a GGUF file's keys, or config.json as one flat table of dotted names.

    `format` is gguf, checkpoint, bitsandbytes or imatrix. `report` is what was kept when k2lite made this output;
    `report_problem` says why a report that lies there is not shown. `statistics` are those of an imatrix.
    """

    path: Path
    format: str
    metadata: dict[str, Any]
    tensors: tuple[TensorSummary, ...]
    files: tuple[Path, ...] = ()
    report: OutputReport | None = None
    report_problem: str | None = None
    statistics: tuple[StatisticsSummary, ...] = ()

    def totals(self) -> dict[str, TensorSummary]:
        """All tensors of one type as if they were one of shape [weights]; the largest first."""
        sums: dict[str, tuple[int, int]] = {}
        for tensor in self.tensors:
            weights, nbytes = sums.get(tensor.type, (0, 0))
            sums[tensor.type] = weights + tensor.weights, nbytes + tensor.nbytes
        ordered = sorted(sums.items(), key=lambda item: -item[1][1])
        return {name: TensorSummary(name, name, (weights,), nbytes) for name, (weights, nbytes) in ordered}


def inspect_model(path: Path) -> Inspection:
    """Read the headers of a GGUF file (of several shards the first) or of a folder, and the report beside it.

    Raises K2Error.
    """
    return _with_report(_inspect_folder(path) if is_folder(path) else _inspect_file(path))


def _inspect_file(path: Path) -> Inspection:
    with GgufFile.open(path) as file:
        tensors = tuple(
            TensorSummary(info.name, info.type.name, info.shape, info.nbytes) for info in file.tensors.values()
        )
        metadata = {key: _short(value) for key, value in file.metadata.items()}
        if is_imatrix(file):
            return Inspection(path, "imatrix", metadata, tensors, file.paths, statistics=statistics(file))
        return Inspection(path, "gguf", metadata, tensors, file.paths)


def _with_report(inspection: Inspection) -> Inspection:
    path = report_path(inspection.path)
    if not path.exists():
        return inspection
    try:
        report = load_report(path)
    except ReportError as error:
        return replace(inspection, report_problem=str(error))
    problem = difference(report, inspection)
    if problem is not None:
        return replace(inspection, report_problem=f"{path} is not of this model: {problem}")
    return replace(inspection, report=report)


def _inspect_folder(path: Path) -> Inspection:
    if is_nf4_folder(path):
        return _inspect_nf4(path)
    with Checkpoint.open(path) as checkpoint:
        tensors = tuple(_summary(checkpoint.entry(name)) for name in checkpoint.names)
        return Inspection(path, "checkpoint", dict(_flat("", checkpoint.config)), tensors)


def _inspect_nf4(path: Path) -> Inspection:
    with Nf4Folder(path) as folder:
        tensors = tuple(
            TensorSummary(entry.name, entry.storage, entry.shape, entry.nbytes)
            for entry in folder.entries.values()
        )
        return Inspection(path, "bitsandbytes", dict(_flat("", folder.config)), tensors)


def difference(report: OutputReport, inspection: Inspection) -> str | None:
    """What shows that a report is not that of the model, None when lengths and tensors are the same.

    Names of files may have changed. Contents are not compared: that would mean to read everything.
    """
    reported = {tensor.name: (tensor.type, tensor.shape, tensor.nbytes) for tensor in report.tensors}
    found = {tensor.name: (tensor.type, tensor.shape, tensor.nbytes) for tensor in inspection.tensors}
    for name in {**reported, **found}:
        if reported.get(name) != found.get(name):
            return f"{name} is {_described(reported.get(name))} there and {_described(found.get(name))} here"
    lengths = [file.nbytes for file in report.files]
    if inspection.files and lengths != [path.stat().st_size for path in inspection.files]:
        return "its files are of another length"
    return None


def _described(tensor: tuple[str, tuple[int, ...], int] | None) -> str:
    return "missing" if tensor is None else f"{tensor[0]} {' x '.join(map(str, tensor[1]))}"


def _summary(entry: TensorEntry) -> TensorSummary:
    parts = [part for part in (entry.values, entry.scales) if part is not None]
    return TensorSummary(entry.name, entry.storage, entry.shape, sum(part.stored.nbytes for part in parts))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} -> a.b 1"""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), entry)
    else:
        yield prefix, _short(value)


def _short(value: Any) -> Any:
    """`value`, or the length and the beginning of a long list."""
    if not isinstance(value, list | NumberArray):
        return value
    return {"length": len(value), "first": value[:_SHOWN_ENTRIES]} if len(value) > _WHOLE_LIST else list(value)
