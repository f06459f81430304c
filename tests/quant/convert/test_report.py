"""The report of a conversion: its figures, and where it lies."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quant.convert.codec import BlockCodec
from quant.convert.job import convert
from quant.convert.job_types import ConvertJob, ConvertReport, PlannedTensor, WorkDone, type_totals
from quant.convert.report import ReportFacts, report_of, report_path
from quant.convert.source_tensor import SourceTensor
from quant.convert.verify_result import FileDigest, TensorErrors, Verification
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import TensorSpec
from quant.types import block_type

FACTS = ReportFacts("k2lite 1.0", "ggml 1", "model", {"type": "Q4_K_M"}, source_bytes=4_000_000)
TENSORS = {"a.weight": ("Q4_K", 16), "b.weight": ("Q4_K", 48), "c.weight": ("Q8_0", 8), "norm": ("F32", 1)}


def job(folder: Path) -> ConvertJob:
    planned = []
    for name, (kind, rows) in TENSORS.items():
        values = torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows))
        source = SourceTensor(name, (rows, 256), rows, lambda part, values=values: values)
        planned.append(PlannedTensor(source, BlockCodec(block_type(kind))))
    specs = [TensorSpec(t.source.name, block_type(t.codec.name), t.source.shape) for t in planned]
    return ConvertJob(tuple(planned), gguf_layout(folder / "out.gguf", (), specs))


def errors(relative: float, beyond: int = 0) -> TensorErrors:
    return TensorErrors(16, relative * 2, relative, None, beyond)


def outcome(job: ConvertJob) -> ConvertReport:
    """10 s, 2 of them for verification; a quarter of the weights was there before."""
    found = {"a.weight": errors(0.06), "b.weight": errors(0.08, beyond=1), "c.weight": errors(0.005)}
    return ConvertReport(
        path=job.layout.destination,
        files=tuple(file.path for file in job.layout.files),
        types=type_totals(job.tensors),
        file_bytes=job.layout.total_bytes,
        seconds=10.0,
        work=WorkDone(resumed_weights=job.total_weights // 4, resumed_bytes=1000, verifying_s=2.0),
        verification=Verification((FileDigest("out.gguf", 5, "ab" * 32),), found, 7, ("gguf 1",)),
    )


def test_totals_are_by_type_with_the_mean_error_by_weights(tmp_path: Path) -> None:
    report = report_of(job(tmp_path), outcome(job(tmp_path)), FACTS)
    totals = report.totals()
    assert list(totals) == ["Q4_K", "Q8_0", "F32"], "most bytes first"
    assert (totals["Q4_K"].tensors, totals["Q4_K"].weights, totals["Q4_K"].nbytes) == (2, 64 * 256, 64 * 144)
    assert totals["Q4_K"].relative_rmse == pytest.approx(((16 * 0.06**2 + 48 * 0.08**2) / 64) ** 0.5)
    assert totals["F32"].relative_rmse is None, "no row of it was compared"
    assert totals["Q4_K"].weighted_relative_rmse is None


def test_the_weighted_error_is_over_tensors_with_an_importance(tmp_path: Path) -> None:
    work = job(tmp_path)
    found = {"a.weight": errors(0.06), "b.weight": replace(errors(0.08), weighted_relative_rmse=0.05)}
    finished = replace(outcome(work), verification=Verification((), found, 7, ()))
    total = report_of(work, finished, FACTS).totals()["Q4_K"]
    assert total.weighted_relative_rmse == pytest.approx(0.05)
    assert total.relative_rmse is not None and total.relative_rmse > 0.06


def test_rates_are_of_what_this_run_did(tmp_path: Path) -> None:
    work = job(tmp_path)
    run = report_of(work, outcome(work), FACTS).run
    assert run.weights_per_s == pytest.approx(0.75 * work.total_weights / 8)
    assert run.written_bytes_per_s == pytest.approx((work.layout.total_bytes - 1000) / 8)
    assert run.read_bytes_per_s == pytest.approx(0.75 * 4_000_000 / 8)
    assert (run.seconds, run.verifying_s) == (10.0, 2.0)
    assert run.peak_rss_bytes > 50e6, "python with torch"
    assert report_of(work, outcome(work), replace(FACTS, source_bytes=None)).run.read_bytes_per_s is None


def test_what_was_verified_is_summed_up(tmp_path: Path) -> None:
    work = job(tmp_path)
    report = report_of(work, outcome(work), FACTS)
    assert report.verification is not None
    assert (report.verification.sampled_rows, report.verification.unusual_rows) == (48, 1)
    assert report.files[0].sha256 == "ab" * 32
    skipped = report_of(work, replace(outcome(work), verification=None), FACTS)
    assert skipped.verification is None
    assert skipped.files[0].sha256 is None
    assert skipped.totals()["Q4_K"].relative_rmse is None


def test_a_real_run_is_reported(tmp_path: Path) -> None:
    work = job(tmp_path)
    report = report_of(work, convert(work, threads=2), FACTS)
    assert report.files[0].nbytes == (tmp_path / "out.gguf").stat().st_size
    by_name = {tensor.name: tensor for tensor in report.tensors}
    assert list(by_name) == list(TENSORS)
    assert by_name["b.weight"].errors is not None
    assert by_name["b.weight"].errors.relative_rmse == pytest.approx(0.072, rel=0.1)
    assert not by_name["b.weight"].exact


@pytest.mark.parametrize(
    ("output", "report"),
    [
        ("k2.gguf", "k2.gguf.report.json"),
        ("k2-00001-of-00003.gguf", "k2.gguf.report.json"),
        ("k2-1-of-3.gguf", "k2-1-of-3.gguf.report.json"),
        ("best-of-5.gguf", "best-of-5.gguf.report.json"),
        ("folder-NF4", "folder-NF4.report.json"),
    ],
)
def test_the_report_of_shards_is_that_of_the_destination(output: str, report: str) -> None:
    assert report_path(Path("x") / output) == Path("x") / report
