"""`k2lite inspect`: metadata and tensors of a model, without reading its weights."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2lite.cli.interrupt import stop_on_interrupt
from k2lite.cli.notes import print_note
from k2lite.cli.options import add_switch
from k2lite.cli.progress import shown_progress
from k2lite.cli.report_lines import digest_lines, error_text, report_lines, type_lines
from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes
from quant.errors import RequestError

if TYPE_CHECKING:
    from k2lite.inspection.inspection import Inspection
    from k2lite.inspection.unfinished import Unfinished

DESCRIPTION = """Show metadata and tensors of a GGUF file, a checkpoint folder or an importance matrix, and the report
that k2lite quantize left beside its output: the error of each type and tensor (root mean square, relative to that of
the weights), what was verified, how long it took. Reads headers only, unless --check is given. Of an output that was
interrupted it says how far it is."""
EXAMPLES = """examples:
  k2lite inspect k2.gguf
  k2lite inspect k2.gguf --check      # after it was copied
  k2lite inspect ./Kimi-K2-Instruct --json | jq .totals"""

_VALUE_CHARACTERS = 80


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="GGUF file (of several shards the first), or folder")
    add_switch(parser, "--check", help="read everything and compare it with the SHA-256 in the report")
    add_switch(parser, "--json", help="one JSON object; lists longer than 16 are given by length and first entries")


def execute(options: argparse.Namespace) -> int:
    from k2lite.inspection.inspection import inspect_model
    from k2lite.inspection.unfinished import find_unfinished

    unfinished = find_unfinished(options.path)
    if unfinished is not None:
        if options.check:
            raise RequestError(f"{unfinished.destination} is not finished: there is nothing to check yet")
        print(json.dumps(_unfinished_record(unfinished)) if options.json else "\n".join(_unfinished_lines(unfinished)))
        return 0
    inspection = inspect_model(options.path)
    if options.check:
        _check(inspection)
    print(json.dumps(_record(inspection)) if options.json else "\n".join(_lines(inspection)))
    return 0


def _check(inspection: "Inspection") -> None:
    """Compare all files with the report. Raises K2Error when they differ, KeyboardInterrupt when it is stopped."""
    from k2lite.inspection.check import check_digests

    with shown_progress() as show, stop_on_interrupt() as stop:
        if not check_digests(inspection, lambda done, total: show("checking", done, total), stop):
            raise KeyboardInterrupt
    print_note(f"all bytes of {inspection.path} are as they were verified")


def _unfinished_record(unfinished: "Unfinished") -> dict[str, Any]:
    return {
        "path": str(unfinished.destination),
        "format": "unfinished",
        "written_bytes": unfinished.written_bytes,
        "total_bytes": unfinished.total_bytes,
        "complete": unfinished.complete,
        "options": dict(unfinished.options),
    }


def _unfinished_lines(unfinished: "Unfinished") -> list[str]:
    keys = max((len(key) for key in unfinished.options), default=0)
    lines = [f"{one_line(key):{keys}}  {one_line(value)}" for key, value in unfinished.options.items()]
    written, total = unfinished.written_bytes, unfinished.total_bytes
    share = f" of {format_bytes(total)} ({written / total:.0%})" if total else ""
    place = "" if unfinished.files == 1 else f" in up to {unfinished.files} files"
    state = "is written and only has to be named" if unfinished.complete else "is not finished"
    lines += [
        "",
        f"{one_line(str(unfinished.destination))} {state}: {format_bytes(written)}{share} are on the drive{place}.",
        "Run the same command again to go on.",
    ]
    return lines


def _record(inspection: "Inspection") -> dict[str, Any]:
    from quant.convert.report_file import report_record

    errors = _errors(inspection)
    report = inspection.report
    return {
        "path": str(inspection.path),
        "format": inspection.format,
        "metadata": inspection.metadata,
        "tensors": [
            {
                "name": tensor.name,
                "type": tensor.type,
                "shape": tensor.shape,
                "bytes": tensor.nbytes,
                **({"relative_rmse": errors[tensor.name]} if tensor.name in errors else {}),
            }
            for tensor in inspection.tensors
        ],
        "totals": {
            name: {"weights": total.weights, "bytes": total.nbytes} for name, total in inspection.totals().items()
        },
        "statistics": [asdict(entry) for entry in inspection.statistics],
        "report": None if report is None else report_record(report),
        "report_problem": inspection.report_problem,
    }


def _errors(inspection: "Inspection") -> dict[str, float]:
    """Relative error by tensor, as far as the report has it."""
    tensors = inspection.report.tensors if inspection.report else ()
    return {tensor.name: tensor.errors.relative_rmse for tensor in tensors if tensor.errors is not None}


def _lines(inspection: "Inspection") -> list[str]:
    keys = max((len(key) for key in inspection.metadata), default=0)
    lines = [f"{one_line(key):{keys}}  {_value(value)}" for key, value in inspection.metadata.items()]
    lines.append("")
    if inspection.format == "imatrix":
        lines += _statistics_lines(inspection)
    else:
        lines += _tensor_lines(inspection)
        lines += ["", *_total_lines(inspection)]
    everything = sum(tensor.nbytes for tensor in inspection.tensors)
    lines.append(f"{len(inspection.tensors)} tensors, {format_bytes(everything)}")
    if inspection.report is not None:
        lines += ["", *report_lines(inspection.report), *digest_lines(inspection.report)]
    if inspection.report_problem is not None:
        lines += ["", one_line(inspection.report_problem)]
    return lines


def _tensor_lines(inspection: "Inspection") -> list[str]:
    """Name, type, bytes, error where it is known, and shape."""
    names = max((len(tensor.name) for tensor in inspection.tensors), default=0)
    errors, lines = _errors(inspection), []
    for tensor in inspection.tensors:
        error = f"{error_text(errors.get(tensor.name)):>8}  " if inspection.report else ""
        shape = " x ".join(str(size) for size in tensor.shape)
        size = format_bytes(tensor.nbytes)
        lines.append(f"{one_line(tensor.name):{names}}  {tensor.type:8} {size:>10}  {error}{shape}")
    return lines


def _total_lines(inspection: "Inspection") -> list[str]:
    if inspection.report is not None:
        return type_lines(inspection.report)
    return [
        f"{total.type:8} {total.weights:17,} weights  {format_bytes(total.nbytes):>10}  "
        f"{8 * total.nbytes / total.weights if total.weights else 0:.2f} bits per weight"
        for total in inspection.totals().values()
    ]


def _statistics_lines(inspection: "Inspection") -> list[str]:
    """How often each weight was seen."""
    names = max((len(entry.name) for entry in inspection.statistics), default=0)
    lines = []
    for entry in inspection.statistics:
        often = f"{entry.least:,.0f}" if entry.least == entry.most else f"{entry.least:,.0f} to {entry.most:,.0f}"
        experts = f"{entry.groups:5} experts" if entry.groups > 1 else " " * 13
        unseen = f", {entry.unseen} never" if entry.unseen else ""
        lines.append(f"{one_line(entry.name):{names}}  {entry.cols:6} columns {experts}  seen {often} times{unseen}")
    return lines


def _value(value: Any) -> str:
    """A value on one line, the end cut off when it is long."""
    if isinstance(value, dict) and "first" in value:
        first = ", ".join(str(entry) for entry in value["first"])
        return one_line(f"[{value['length']:,} entries: {first[:_VALUE_CHARACTERS]} ...]")
    text = one_line(str(value))
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}... ({len(text):,} characters)"
