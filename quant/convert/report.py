"""The report of a conversion: what is in the output, how good it is and how long it took; a JSON file beside it."""

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quant.convert.job_types import ConvertJob, ConvertReport
from quant.convert.verify_result import TensorErrors, Verification

# A shard's name is STEM-00001-of-00003.gguf, the report of all of them is STEM.gguf.report.json.
REPORT_SUFFIX = ".report.json"


@dataclass(frozen=True)
class ReportFacts:
    """What the job itself does not know. `options` are told as the user gave them: type, tensor types, importance.

    `source_bytes` is what had to be read in all. `inexact_scales` counts INT4 scales that halves cannot hold, None
    where there was no INT4. `unseen_experts` are those for which an importance matrix has nothing, by tensor.
    """

    program: str
    encoder: str
    source: str
    options: Mapping[str, str] = field(default_factory=dict)
    source_bytes: int | None = None
    inexact_scales: int | None = None
    unseen_experts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportFile:
    """A file of the output; `sha256` is None when it was not read back."""

    name: str
    nbytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class ReportTensor:
    """A tensor of the output, `nbytes` without padding. `exact`: its bytes are the source's, nothing was rounded.

    Errors are None where no rows were compared, see TensorErrors for the others.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    exact: bool = False
    errors: TensorErrors | None = None

    @property
    def weights(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ReportTotal:
    """All tensors of a type. Errors are the root of the mean square over those that were compared, by weights.

    `weighted_relative_rmse` is over those that have an importance, None where none has.
    """

    tensors: int
    weights: int
    nbytes: int
    relative_rmse: float | None
    weighted_relative_rmse: float | None


@dataclass(frozen=True)
class ReportRun:
    """The run that finished the output. `resumed_*` is what earlier ones had done, rates are of what this one did.

    `seconds` is the whole run with `verifying_s` in it; rates are over the rest. `read_bytes_per_s` is None where the
    size of the source is not known. `earlier_runs` took `earlier_s` seconds up to the last that is known of each.
    """

    seconds: float
    verifying_s: float
    weights_per_s: float
    written_bytes_per_s: float
    read_bytes_per_s: float | None
    peak_rss_bytes: int
    resumed_weights: int
    resumed_bytes: int
    earlier_runs: int
    earlier_s: float


@dataclass(frozen=True)
class ReportVerification:
    """What was checked; everything was right, or there would be no output."""

    stretches: int
    sampled_rows: int
    unusual_rows: int
    witnesses: tuple[str, ...]


@dataclass(frozen=True)
class OutputReport:
    """Everything that is kept. `verification` is None when it was skipped."""

    facts: ReportFacts
    files: tuple[ReportFile, ...]
    tensors: tuple[ReportTensor, ...]
    run: ReportRun
    verification: ReportVerification | None = None

    def totals(self) -> dict[str, ReportTotal]:
        """By type, the one with most bytes first."""
        groups: dict[str, list[ReportTensor]] = {}
        for tensor in self.tensors:
            groups.setdefault(tensor.type, []).append(tensor)
        totals = {name: _total(tensors) for name, tensors in groups.items()}
        return dict(sorted(totals.items(), key=lambda item: -item[1].nbytes))


def report_of(job: ConvertJob, outcome: ConvertReport, facts: ReportFacts) -> OutputReport:
    """The report of a finished job, to be called right after it by the process that did it."""
    verification = outcome.verification
    digests = {file.name: file.sha256 for file in verification.files} if verification else {}
    errors = verification.tensors if verification else {}
    files = tuple(
        ReportFile(file.path.name, file.nbytes, digests.get(file.path.name)) for file in job.layout.files
    )
    tensors = tuple(
        ReportTensor(
            tensor.source.name,
            tensor.codec.name,
            tensor.source.shape,
            tensor.nbytes,
            tensor.codec.name in tensor.source.exact,
            errors.get(tensor.source.name),
        )
        for tensor in job.tensors
    )
    return OutputReport(facts, files, tensors, _run(job, outcome, facts), _verification(verification))


def report_path(output: Path) -> Path:
    """Where the report of an output lies; `output` is the destination or any file of it."""
    stem, separator, rest = output.name.rpartition("-of-")
    shard = separator and rest.removesuffix(output.suffix).isdigit() and stem[-6:-5] == "-" and stem[-5:].isdigit()
    name = stem[:-6] + output.suffix if shard else output.name
    return output.with_name(name + REPORT_SUFFIX)


def peak_rss_bytes() -> int:
    """The most memory that this process ever had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _total(tensors: list[ReportTensor]) -> ReportTotal:
    plain = [(t.weights, t.errors.relative_rmse) for t in tensors if t.errors is not None]
    weighted = [(t.weights, t.errors.weighted_relative_rmse) for t in tensors if t.errors is not None]
    return ReportTotal(
        len(tensors),
        sum(tensor.weights for tensor in tensors),
        sum(tensor.nbytes for tensor in tensors),
        _mean_error(plain),
        _mean_error([(count, error) for count, error in weighted if error is not None]),
    )


def _mean_error(errors: Sequence[tuple[int, float]]) -> float | None:
    weights = sum(count for count, _ in errors)
    return math.sqrt(sum(count * error**2 for count, error in errors) / weights) if weights else None


def _run(job: ConvertJob, outcome: ConvertReport, facts: ReportFacts) -> ReportRun:
    work = outcome.work
    seconds = max(outcome.seconds - work.verifying_s, 1e-9)
    share = 1 - work.resumed_weights / job.total_weights
    return ReportRun(
        seconds=outcome.seconds,
        verifying_s=work.verifying_s,
        weights_per_s=(job.total_weights - work.resumed_weights) / seconds,
        written_bytes_per_s=(outcome.file_bytes - work.resumed_bytes) / seconds,
        read_bytes_per_s=None if facts.source_bytes is None else facts.source_bytes * share / seconds,
        peak_rss_bytes=peak_rss_bytes(),
        resumed_weights=work.resumed_weights,
        resumed_bytes=work.resumed_bytes,
        earlier_runs=work.earlier_runs,
        earlier_s=work.earlier_s,
    )


def _verification(found: Verification | None) -> ReportVerification | None:
    if found is None:
        return None
    rows = sum(errors.rows for errors in found.tensors.values())
    beyond = sum(errors.beyond for errors in found.tensors.values())
    return ReportVerification(found.stretches, rows, beyond, found.witnesses)
