"""`k2lite inspect`."""

import hashlib
import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from k2lite.sizes import format_bytes
from quant.convert.job_types import Stretch
from quant.convert.journal import Journal
from quant.gguf.gguf_file import GgufFile
from quant.imatrix.imatrix_file import ImatrixHeader, Statistics, write_statistics
from tests.k2lite.cli.conftest import CommandLine


def test_a_file_is_shown_as_tables(k2lite: CommandLine, tiny_file: Path) -> None:
    lines = k2lite("inspect", tiny_file).out.splitlines()
    assert "general.architecture" in lines[0]
    assert any(line.split()[:2] == ["tokenizer.ggml.tokens", "[640"] for line in lines)
    (experts,) = (line.split() for line in lines if line.startswith("blk.1.ffn_gate_exps.weight"))
    assert experts[1] == "Q8_0"
    assert experts[-5:] == ["16", "x", "256", "x", "256"]
    assert any(line.startswith("34 tensors, ") for line in lines)


def test_the_report_beside_a_file_is_shown_with_its_errors(k2lite: CommandLine, tiny_file: Path) -> None:
    lines = k2lite("inspect", tiny_file).out.splitlines()
    (experts,) = (line.split() for line in lines if line.startswith("blk.1.ffn_gate_exps.weight"))
    assert 0.3 < float(experts[4]) < 0.8, "percent, of Q8_0"
    assert experts[5] == "%"
    (norm,) = (line.split() for line in lines if line.startswith("output_norm.weight"))
    assert norm[4] == "exact"
    (total,) = (line for line in lines if line.startswith("Q8_0 "))
    assert "bits per weight  error 0.5" in total
    assert any(line.startswith("made by k2lite ") for line in lines)
    assert any(line.startswith("verified: every byte was read back, ") and "gguf" in line for line in lines)
    digest = hashlib.sha256(tiny_file.read_bytes()).hexdigest()
    assert lines[-1] == f"{digest}  {tiny_file.name}"


def test_json_holds_the_whole_report(k2lite: CommandLine, tiny_file: Path) -> None:
    record = json.loads(k2lite("inspect", tiny_file, "--json").out)
    assert record["report"]["totals"]["Q8_0"]["relative_rmse"] == pytest.approx(0.0055, rel=0.1)
    assert record["report"]["files"][0]["nbytes"] == tiny_file.stat().st_size
    errors = {tensor["name"]: tensor["relative_rmse"] for tensor in record["tensors"]}
    assert errors["output_norm.weight"] == 0
    assert record["report_problem"] is None


def copied(file: Path, folder: Path) -> Path:
    """The file with its report, under another name."""
    copy = folder / "copy.gguf"
    shutil.copy(file, copy)
    shutil.copy(file.with_name(file.name + ".report.json"), folder / "copy.gguf.report.json")
    return copy


def test_a_copy_is_checked_against_its_report(k2lite: CommandLine, tiny_file: Path, tmp_path: Path) -> None:
    copy = copied(tiny_file, tmp_path)
    output = k2lite("inspect", copy, "--check")
    assert output.status == 0
    assert "are as they were verified" in output.err
    with copy.open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"x")
    output = k2lite("inspect", copy, "--check")
    assert output.status == 1
    assert "copy.gguf has changed since it was verified" in output.err
    (tmp_path / "copy.gguf.report.json").unlink()
    assert "there is no report beside" in k2lite("inspect", copy, "--check").err


def test_a_report_of_another_file_is_named_and_not_shown(k2lite: CommandLine, tiny_file: Path, tmp_path: Path) -> None:
    copy = copied(tiny_file, tmp_path)
    with copy.open("ab") as file:
        file.write(bytes(32))
    output = k2lite("inspect", copy)
    assert output.status == 0
    assert output.out.splitlines()[-1].endswith("is not of this model: its files are of another length")
    assert "made by" not in output.out
    report = tmp_path / "copy.gguf.report.json"
    report.write_text(report.read_text().replace('"Q8_0", "shape"', '"Q6_K", "shape"'))
    assert "is Q6_K 640 x 256 there and Q8_0 640 x 256 here" in k2lite("inspect", copy).out
    report.write_text("{")
    output = k2lite("inspect", copy)
    assert output.status == 0
    assert "is not valid JSON" in output.out.splitlines()[-1]
    assert json.loads(k2lite("inspect", copy, "--json").out)["report"] is None


def test_a_report_cannot_write_to_the_terminal(k2lite: CommandLine, tiny_file: Path, tmp_path: Path) -> None:
    copy = copied(tiny_file, tmp_path)
    report = tmp_path / "copy.gguf.report.json"
    report.write_text(report.read_text().replace('"program": "k2lite', '"program": "\\u001b[2J'))
    assert "\x1b" not in k2lite("inspect", copy).out


def test_an_interrupted_output_says_how_far_it_is(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    destination = tmp_path / "half.gguf"
    assert k2lite("inspect", destination).status == 1
    part, journal = tmp_path / "half.gguf.part", tmp_path / "half.gguf.journal"
    file = tmp_path / "whole.gguf"
    assert k2lite("quantize", tiny_folder, file, "--type", "Q8_0").status == 0
    whole = file.read_bytes()
    part.write_bytes(whole[:1_000_000])
    with closing(Journal(journal)) as begun:
        begun.start({"type": "Q8_0"}, "layout", [part.name])
        begun.append([Stretch(0, 0, 600_000, "00"), Stretch(0, 600_000, 900_000, "00")])
    for path in (destination, part, journal):
        output = k2lite("inspect", path)
        assert output.status == 0
        assert "type  Q8_0" in output.out
        share = f"{900_000 / len(whole):.0%}"
        assert f"is not finished: 879 KiB of {format_bytes(len(whole))} ({share}) are on the drive" in output.out
    record = json.loads(k2lite("inspect", destination, "--json").out)
    assert record["format"] == "unfinished"
    assert (record["written_bytes"], record["total_bytes"]) == (900_000, len(whole))
    assert "nothing to check yet" in k2lite("inspect", destination, "--check").err


def test_an_importance_matrix_is_shown_by_weight(k2lite: CommandLine, tmp_path: Path) -> None:
    name, counts = "blk.1.ffn_up_exps.weight", np.array([5, 0, 7], np.float32)
    write_statistics(
        tmp_path / "x.imatrix.gguf",
        ImatrixHeader(("text",), 4, 512),
        {name: (3, 64)},
        [(name, Statistics(np.ones((3, 64), np.float32), counts))],
    )
    output = k2lite("inspect", tmp_path / "x.imatrix.gguf").out
    assert "blk.1.ffn_up_exps.weight      64 columns     3 experts  seen 0 to 7 times, 1 never" in output
    assert "bits per weight" not in output
    record = json.loads(k2lite("inspect", tmp_path / "x.imatrix.gguf", "--json").out)
    assert record["format"] == "imatrix"
    assert record["statistics"][0]["unseen"] == 1


def test_the_first_of_several_shards_is_shown_with_the_report_of_all(
    k2lite: CommandLine, tiny_folder: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "tiny.gguf"
    assert k2lite("quantize", tiny_folder, destination, "--type", "Q8_0", "--shard-size", "2M").status == 0
    first = min(tmp_path.glob("tiny-00001-of-*.gguf"))
    record = json.loads(k2lite("inspect", first, "--json").out)
    assert len(record["report"]["files"]) == len(list(tmp_path.glob("*.gguf"))) > 1
    assert len(record["tensors"]) == 34
    assert k2lite("inspect", first, "--check").status == 0


def test_json_tells_the_same_in_numbers(k2lite: CommandLine, tiny_file: Path) -> None:
    record = json.loads(k2lite("inspect", tiny_file, "--json").out)
    with GgufFile.open(tiny_file) as file:
        assert [tensor["name"] for tensor in record["tensors"]] == list(file.tensors)
        assert sum(tensor["bytes"] for tensor in record["tensors"]) == sum(t.nbytes for t in file.tensors.values())
    assert record["format"] == "gguf"
    assert record["metadata"]["general.architecture"] == "deepseek2"
    assert record["metadata"]["tokenizer.ggml.tokens"]["length"] == 640
    assert record["totals"]["Q8_0"]["bytes"] * 32 == record["totals"]["Q8_0"]["weights"] * 34


def test_a_checkpoint_folder_is_shown_with_what_is_stored(k2lite: CommandLine, tiny_folder: Path) -> None:
    record = json.loads(k2lite("inspect", tiny_folder, "--json").out)
    by_name = {tensor["name"]: tensor for tensor in record["tensors"]}
    gate = by_name["model.layers.1.mlp.experts.0.gate_proj.weight"]
    assert (gate["type"], gate["shape"]) == ("FP8", [256, 256])
    assert gate["bytes"] == 256 * 256 + 4 * 4, "one byte per weight, four F32 scales"
    assert record["metadata"]["quantization_config.weight_block_size"] == [128, 128]
    assert "FP8 " in k2lite("inspect", tiny_folder).out


def test_an_nf4_folder_is_shown_with_its_report(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    destination = tmp_path / "nf4"
    assert k2lite("quantize", tiny_folder, destination, "--type", "NF4").status == 0
    output = k2lite("inspect", destination)
    (experts,) = (line for line in output.out.splitlines() if line.startswith("NF4 "))
    assert "error 9" in experts, "percent"
    assert any("safetensors" in line for line in output.out.splitlines() if line.startswith("verified: "))
    assert any(line.endswith("  config.json") for line in output.out.splitlines())
    assert k2lite("inspect", destination, "--check").status == 0
    config = (destination / "config.json").read_text()
    (destination / "config.json").write_text(config.replace("\n", " "))
    assert "config.json has changed since it was verified" in k2lite("inspect", destination, "--check").err
