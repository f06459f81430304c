"""Reports as JSON: written whole or not at all, read as files that nobody vouches for."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quant.convert.report import (
    OutputReport,
    ReportFacts,
    ReportFile,
    ReportRun,
    ReportTensor,
    ReportVerification,
)
from quant.convert.verify_result import TensorErrors
from quant.errors import CheckpointError, K2Error, OutputError
from quant.files.bounded_json import read_json_object

_VERSION_KEY, _VERSION = "k2lite_report", 1

# K2's 1,096 tensors take 0.3 MB.
_MAX_BYTES = 64 * 1024 * 1024


class ReportError(K2Error):
    """A report is damaged, or of a newer version."""


def save_report(report: OutputReport, path: Path) -> None:
    """Write `path` by way of a file beside it. An older report is replaced. Raises OutputError."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(report_json(report))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}: the output itself is complete") from error


def report_record(report: OutputReport) -> dict[str, Any]:
    """The report as plain values. Totals are there for readers; they are made anew when a report is loaded."""
    totals = {name: asdict(total) for name, total in report.totals().items()}
    return {
        _VERSION_KEY: _VERSION,
        **asdict(report.facts),
        "run": asdict(report.run),
        "verification": None if report.verification is None else asdict(report.verification),
        "totals": totals,
        "files": [asdict(file) for file in report.files],
        "tensors": [asdict(tensor) for tensor in report.tensors],
    }


def report_json(report: OutputReport) -> str:
    """The text of a report file: lists of tensors and files have an entry a line."""
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in report_record(report).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value)


def load_report(path: Path) -> OutputReport:
    """Read a report. Raises ReportError for one that is damaged, too long, of another version, or not there."""
    try:
        record = read_json_object(path, _MAX_BYTES)
    except CheckpointError as error:
        raise ReportError(str(error)) from error
    if record.get(_VERSION_KEY) != _VERSION:
        raise ReportError(f"{path} is no report of version {_VERSION}: {_VERSION_KEY} is {record.get(_VERSION_KEY)!r}")
    fields = _Fields(record, str(path))
    checked = fields.optional_object("verification")
    return OutputReport(
        _facts(fields),
        tuple(map(_file, fields.objects("files"))),
        tuple(map(_tensor, fields.objects("tensors"))),
        _run(fields.object("run")),
        None if checked is None else _verification(checked),
    )


class _Fields:
    """An object of a report, whose entries are checked as they are asked for. Raises ReportError that names them."""

    def __init__(self, record: Mapping[str, Any], where: str) -> None:
        self._record = record
        self._where = where

    def text(self, key: str) -> str:
        return str(self._value(key, str, "text"))

    def optional_text(self, key: str) -> str | None:
        return None if self._record.get(key) is None else self.text(key)

    def count(self, key: str) -> int:
        value = self._value(key, int, "count")
        if isinstance(value, bool) or not 0 <= value < 2**63:
            raise self._wrong(key, "count")
        return int(value)

    def optional_count(self, key: str) -> int | None:
        return None if self._record.get(key) is None else self.count(key)

    def number(self, key: str) -> float:
        value = self._value(key, int | float, "number")
        if isinstance(value, bool) or not abs(value) < 1e300 or not math.isfinite(value):
            raise self._wrong(key, "number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self._record.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        return bool(self._value(key, bool, "true or false"))

    def object(self, key: str) -> "_Fields":
        return _Fields(self._value(key, dict, "object"), f"{self._where}: {key}")

    def optional_object(self, key: str) -> "_Fields | None":
        return None if self._record.get(key) is None else self.object(key)

    def objects(self, key: str) -> list["_Fields"]:
        values = self._list(key, dict, "list of objects")
        return [_Fields(value, f"{self._where}: {key} {index}") for index, value in enumerate(values)]

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._list(key, str, "list of texts"))

    def shape(self, key: str) -> tuple[int, ...]:
        values = self._list(key, int, "shape")
        if not 0 < len(values) <= 4 or not all(0 < size < 2**40 for size in values):
            raise self._wrong(key, "shape")
        return tuple(values)

    def by_name(self, key: str, kind: type) -> dict[str, Any]:
        values = self._value(key, dict, "object")
        if not all(isinstance(value, kind) for value in values.values()):
            raise self._wrong(key, f"object of {kind.__name__}")
        return dict(values)

    def _list(self, key: str, kind: type, expected: str) -> list[Any]:
        values = self._value(key, list, expected)
        if not all(isinstance(value, kind) for value in values):
            raise self._wrong(key, expected)
        return list(values)

    def _value(self, key: str, kind: Any, expected: str) -> Any:
        if not isinstance(self._record.get(key), kind):
            raise self._wrong(key, expected)
        return self._record[key]

    def _wrong(self, key: str, expected: str) -> ReportError:
        return ReportError(f"{self._where} is damaged: {key} is no {expected}: remove it, the model needs none")


def _facts(fields: _Fields) -> ReportFacts:
    return ReportFacts(
        fields.text("program"),
        fields.text("encoder"),
        fields.text("source"),
        fields.by_name("options", str),
        fields.optional_count("source_bytes"),
        fields.optional_count("inexact_scales"),
        fields.by_name("unseen_experts", int),
        fields.texts("notes"),
    )


def _file(fields: _Fields) -> ReportFile:
    return ReportFile(fields.text("name"), fields.count("nbytes"), fields.optional_text("sha256"))


def _tensor(fields: _Fields) -> ReportTensor:
    found = fields.optional_object("errors")
    errors = None
    if found is not None:
        weighted = found.optional_number("weighted_relative_rmse")
        plain = found.number("rmse"), found.number("relative_rmse")
        errors = TensorErrors(found.count("rows"), *plain, weighted, found.count("beyond"))
    sizes = fields.shape("shape"), fields.count("nbytes")
    return ReportTensor(fields.text("name"), fields.text("type"), *sizes, fields.flag("exact"), errors)


def _run(fields: _Fields) -> ReportRun:
    return ReportRun(
        fields.number("seconds"),
        fields.number("verifying_s"),
        fields.number("weights_per_s"),
        fields.number("written_bytes_per_s"),
        fields.optional_number("read_bytes_per_s"),
        fields.count("peak_rss_bytes"),
        fields.count("resumed_weights"),
        fields.count("resumed_bytes"),
        fields.count("earlier_runs"),
        fields.number("earlier_s"),
    )


def _verification(fields: _Fields) -> ReportVerification:
    return ReportVerification(
        fields.count("stretches"), fields.count("sampled_rows"), fields.count("unusual_rows"), fields.texts("witnesses")
    )
