"""Reports on the drive: what is loaded is what was saved, and damage is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from quant.convert.report import OutputReport, ReportFacts, ReportFile, ReportRun, ReportTensor, ReportVerification
from quant.convert.report_file import ReportError, load_report, report_json, save_report
from quant.convert.verify_result import TensorErrors
from quant.errors import OutputError

REPORT = OutputReport(
    ReportFacts("k2lite 1.0", "ggml 1", "K2", {"type": "Q8_0"}, 10**12, 3, {"blk.1.ffn_up_exps.weight": 7}, ("note",)),
    (ReportFile("out.gguf", 10**12, "ab" * 32), ReportFile("other.gguf", 5)),
    (
        ReportTensor("a", "Q4_K", (4, 2, 256), 1152, errors=TensorErrors(16, 0.001, 0.07, 0.06, 1)),
        ReportTensor("b", "Q4_0", (2, 256), 288, exact=True, errors=TensorErrors(2, 0.0, 0.0, None, 0)),
        ReportTensor("c", "F32", (256,), 1024),
    ),
    ReportRun(100.5, 10.25, 2e7, 1e7, None, 10**9, 5, 6, 2, 55.5),
    ReportVerification(9, 18, 1, ("gguf 1", "safetensors 2")),
)


def test_a_report_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf.report.json"
    save_report(REPORT, path)
    assert load_report(path) == REPORT
    assert list(tmp_path.iterdir()) == [path]


def test_a_program_finds_totals_and_a_tensor_a_line(tmp_path: Path) -> None:
    record = json.loads(report_json(REPORT))
    assert record["totals"]["Q4_K"] == {
        "tensors": 1,
        "weights": 2048,
        "nbytes": 1152,
        "relative_rmse": 0.07,
        "weighted_relative_rmse": 0.06,
    }
    assert record["program"] == "k2lite 1.0"
    lines = report_json(REPORT).splitlines()
    assert sum('"name": "a"' in line for line in lines) == 1
    assert max(map(len, lines)) < 400


def test_an_older_report_is_replaced_and_one_that_cannot_be_written_told(tmp_path: Path) -> None:
    path = tmp_path / "out.report.json"
    path.write_text("old")
    save_report(REPORT, path)
    assert load_report(path) == REPORT
    with pytest.raises(OutputError, match="No such file or directory: the output itself is complete"):
        save_report(REPORT, tmp_path / "missing" / "x")


def damaged(change: dict[str, Any]) -> str:
    return json.dumps({**json.loads(report_json(REPORT)), **change})


TENSOR = {"name": "a", "type": "Q4_K", "shape": [4], "nbytes": 1, "exact": False, "errors": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "is no report of version 1"),
        (damaged({"k2lite_report": 2}), "k2lite_report is 2"),
        (damaged({"files": {}}), "files is no list of objects"),
        (damaged({"files": [{"name": "x", "nbytes": -1}]}), "files 0 is damaged: nbytes is no count"),
        (damaged({"files": [{"name": "x", "nbytes": 2**80}]}), "nbytes is no count"),
        (damaged({"tensors": [{**TENSOR, "shape": []}]}), "tensors 0 is damaged: shape is no shape"),
        (damaged({"tensors": [{**TENSOR, "shape": [0]}]}), "shape is no shape"),
        (damaged({"tensors": [{**TENSOR, "exact": 1}]}), "exact is no true or false"),
        (damaged({"tensors": [{**TENSOR, "errors": {"rows": 1}}]}), "errors is damaged: rmse is no number"),
        (damaged({"run": None}), "run is no object"),
        (damaged({"run": {"seconds": float("nan")}}), "seconds is no number"),
        (damaged({"options": {"type": 3}}), "options is no object of str"),
        (damaged({"notes": "text"}), "notes is no list of texts"),
        (damaged({"verification": {"stretches": True}}), "stretches is no count"),
    ],
)
def test_a_damaged_report_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "out.report.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=message) as caught:
        load_report(path)
    assert str(path) in str(caught.value)


def test_a_report_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "out.report.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ReportError, match="takes more than"):
        load_report(path)
    with pytest.raises(ReportError, match="No such file"):
        load_report(tmp_path / "missing")
