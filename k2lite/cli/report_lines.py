"""The report of a conversion as lines of text, for `inspect` and for the end of `quantize`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes, format_duration

if TYPE_CHECKING:
    from quant.convert.report import OutputReport, ReportRun, ReportTotal


def error_text(relative_rmse: float | None) -> str:
    """A relative error in percent: three digits, "exact" for none at all, "-" where nothing was compared."""
    if relative_rmse is None:
        return "-"
    return "exact" if relative_rmse == 0 else f"{100 * relative_rmse:.3g} %"


def type_line(name: str, total: "ReportTotal") -> str:
    """What an output holds of one type. The weighted error is shown where there was an importance."""
    bits = 8 * total.nbytes / total.weights if total.weights else 0
    weighted = total.weighted_relative_rmse
    return (
        f"{one_line(name):8} {total.tensors:6} tensors {total.weights:19,} weights  {format_bytes(total.nbytes):>10}  "
        f"{bits:6.3f} bits per weight  error {error_text(total.relative_rmse)}"
        + ("" if weighted is None else f", weighted {error_text(weighted)}")
    )


def report_lines(report: "OutputReport") -> list[str]:
    """Who made an output from what, how long it took, and what was checked."""
    facts = report.facts
    options = ", ".join(f"{key} {value}" for key, value in facts.options.items())
    lines = [
        f"made by {facts.program} with {facts.encoder}",
        f"from {facts.source}" + (f" ({options})" if options else ""),
        _run_line(report.run),
        *_verification_lines(report),
        *facts.notes,
    ]
    if facts.inexact_scales:
        lines.append(f"{facts.inexact_scales:,} INT4 scales are below what half precision holds, and were rounded")
    if facts.unseen_experts:
        lines.append(
            f"{sum(facts.unseen_experts.values()):,} experts in {len(facts.unseen_experts):,} tensors were not in the "
            "importance matrix: their weights counted alike"
        )
    return [one_line(line) for line in lines]


def type_lines(report: "OutputReport") -> list[str]:
    """A line for each type, the one with most bytes first."""
    return [type_line(name, total) for name, total in report.totals().items()]


def digest_lines(report: "OutputReport") -> Iterable[str]:
    """As `sha256sum` prints them."""
    return [f"{one_line(file.sha256)}  {one_line(file.name)}" for file in report.files if file.sha256 is not None]


def _run_line(run: "ReportRun") -> str:
    read = "" if run.read_bytes_per_s is None else f"read {run.read_bytes_per_s / 1e9:.2f} GB/s, "
    resumed = ""
    if run.earlier_runs:
        runs = "1 earlier run" if run.earlier_runs == 1 else f"{run.earlier_runs} earlier runs"
        resumed = f", after {runs} of {format_duration(run.earlier_s)} that wrote {run.resumed_weights:,} weights"
    verifying = f" ({format_duration(run.verifying_s)} of it to verify)" if run.verifying_s else ""
    return (
        f"in {format_duration(run.seconds)}{verifying}: {run.weights_per_s / 1e6:,.1f} M weights/s, {read}"
        f"written {run.written_bytes_per_s / 1e9:.2f} GB/s, peak memory {format_bytes(run.peak_rss_bytes)}{resumed}"
    )


def _verification_lines(report: "OutputReport") -> list[str]:
    found = report.verification
    if found is None:
        return ["not verified"]
    lines = [
        f"verified: every byte was read back, {found.sampled_rows:,} rows compared with the source, files opened by "
        f"{', '.join(found.witnesses) or 'nobody else'}"
    ]
    if found.unusual_rows:
        lines.append(f"{found.unusual_rows:,} of these rows have a larger error than is usual for their type")
    return lines
