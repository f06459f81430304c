"""`k2lite quantize`."""

import json
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from quant.convert.job_types import ConvertProgress
from quant.gguf.gguf_file import GgufFile
from tests.k2lite.cli.conftest import CommandLine
from tests.quant.recorded_recipes import expected_type


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_checkpoint_becomes_a_file_and_a_report(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    output = k2lite("quantize", tiny_folder, tmp_path / "a.gguf", "--threads", 1)
    assert output.status == 0
    assert output.out.startswith("Q4_K ")
    assert "verified: every byte was read back" in output.out
    assert f"{tmp_path / 'a.gguf'}: " in output.out
    with GgufFile.open(tmp_path / "a.gguf") as file:
        assert file.tensors["blk.1.ffn_gate_exps.weight"].type.name == "Q4_K"
    assert sorted(names(tmp_path)) == ["a.gguf", "a.gguf.report.json"]


def test_the_next_run_says_that_it_goes_on(
    k2lite: CommandLine, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(state: ConvertProgress) -> None:
        if state.done_weights > state.total_weights // 2:
            raise KeyboardInterrupt

    command = ("quantize", tiny_folder, tmp_path / "a.gguf")
    with monkeypatch.context() as patch:
        patch.setattr("k2lite.cli.quantize.shown_conversion", lambda: nullcontext(interrupt))
        assert k2lite(*command).status == 130
    again = k2lite(*command)
    assert again.status == 0
    assert "that an earlier run wrote" in again.err
    assert "after 1 earlier run of" in again.out


def test_verification_can_be_left_out(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    output = k2lite("quantize", tiny_folder, tmp_path / "a.gguf", "--no-verify")
    assert output.status == 0
    assert "not verified" in output.out


def test_the_report_can_be_had_as_json(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    output = k2lite("quantize", tiny_folder, tmp_path / "a.gguf", "--json")
    assert json.loads(output.out) == json.loads((tmp_path / "a.gguf.report.json").read_text())


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    k2lite: CommandLine, tiny_folder: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "a.gguf"
    dry = k2lite("quantize", tiny_folder, destination, "--dry-run")
    plan = json.loads(k2lite("quantize", tiny_folder, destination, "--dry-run", "--json").out)
    assert dry.status == 0
    assert "enough" in dry.out
    assert plan["seconds"] > 0
    assert names(tmp_path) == []
    assert k2lite("quantize", tiny_folder, destination).status == 0
    assert plan["total_bytes"] == destination.stat().st_size
    with GgufFile.open(destination) as file:
        written = [[info.name, info.type.name, info.nbytes] for info in file.tensors.values()]
    assert [[tensor["name"], tensor["type"], tensor["nbytes"]] for tensor in plan["tensors"]] == written


def test_a_tensor_type_that_matches_nothing_is_refused(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    output = k2lite("quantize", tiny_folder, tmp_path / "a.gguf", "--tensor-type", "ffn_dwon=Q8_0")
    assert (output.status, output.out) == (1, "")
    assert "matches none of the" in output.err
    assert names(tmp_path) == []


def test_a_tensor_type_comes_before_the_recipe(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("--tensor-type", r"blk\.1\.ffn_gate_exps=q8_0", "--tensor-type", "exps=Q5_0")
    assert k2lite("quantize", tiny_folder, tmp_path / "a.gguf", *arguments).status == 0
    with GgufFile.open(tmp_path / "a.gguf") as file:
        assert file.tensors["blk.1.ffn_gate_exps.weight"].type.name == "Q8_0"
        assert file.tensors["blk.1.ffn_up_exps.weight"].type.name == "Q5_0"
        assert file.tensors["blk.1.ffn_gate_shexp.weight"].type.name == "Q4_K"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no output"),
        (("a.gguf", "--type", "Q3_Z"), "unknown recipe 'Q3_Z'"),
        (("a.gguf", "--tensor-type", "exps"), "not REGEX=TYPE"),
        (("a.gguf", "--type", "NF4", "--tensor-type", "exps=Q8_0"), "no effect on NF4"),
        (("a.gguf", "--double-quant"), "--double-quant is for --type NF4"),
        (("a.gguf", "--shard-size", "10"), "at least"),
    ],
)
def test_options_that_cannot_be_followed_are_wrong_use(
    k2lite: CommandLine, tiny_folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    output = k2lite("quantize", tiny_folder, *arguments)
    assert (output.status, output.out) == (2, "")
    assert message in output.err


def test_a_repack_without_loss_needs_int4_weights(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    output = k2lite("quantize", tiny_folder, tmp_path / "a.gguf", "--type", "lossless")
    assert output.status == 1
    assert "holds FP8" in output.err


def test_shards_are_named_as_llama_cpp_expects(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    assert k2lite("quantize", tiny_folder, tmp_path / "a.gguf", "--type", "F32", "--shard-size", "12M").status == 0
    shards = sorted(path.name for path in tmp_path.glob("*.gguf"))
    assert len(shards) > 1
    assert shards[0] == f"a-00001-of-{len(shards):05}.gguf"
    assert all((tmp_path / shard).stat().st_size <= 12 * 2**20 for shard in shards)
    with GgufFile.open(tmp_path / shards[0]) as file:
        assert "output.weight" in file.tensors


def test_a_gguf_file_is_a_source_too(k2lite: CommandLine, tiny_file: Path, tmp_path: Path) -> None:
    assert k2lite("quantize", tiny_file, tmp_path / "a.gguf", "--type", "Q4_K_M").status == 0
    again = k2lite("quantize", tmp_path / "a.gguf", tmp_path / "b.gguf", "--type", "Q4_0")
    assert again.status == 1
    assert "--allow-requantize" in again.err
    forced = ("quantize", tmp_path / "a.gguf", tmp_path / "b.gguf", "--type", "Q4_0", "--allow-requantize")
    assert k2lite(*forced).status == 0


@pytest.mark.parametrize("model", ["kimi-k2-instruct", "moonlight-16b-a3b", "deepseek-v2-lite", "deepseek-v3"])
def test_the_published_models_are_planned_as_llama_cpp_does_from_their_configs_alone(
    k2lite: CommandLine, model: str, tmp_path: Path, shared_data: Path
) -> None:
    (tmp_path / "config.json").write_text((shared_data / "kimi" / "configs" / f"{model}.json").read_text())
    known = json.loads((shared_data / "kimi" / "recipes.json").read_text())[model]
    planned = 0
    for recipe, figures in known["ftypes"].items():
        if figures["imatrix"]:
            continue
        plan = json.loads(k2lite("quantize", tmp_path, "--dry-run", "--json", "--type", recipe).out)
        assert len(plan["tensors"]) == known["source_tensors"]
        assert plan["weights"] == known["parameters"]
        assert sum(tensor["nbytes"] for tensor in plan["tensors"]) == figures["tensor_bytes"]
        for tensor in plan["tensors"]:
            assert tensor["type"].lower() == expected_type(figures["types"], tensor["name"]), (recipe, tensor)
        planned += 1
    assert planned > 5


def test_an_existing_file_is_not_overwritten(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("mine")
    output = k2lite("quantize", tiny_folder, tmp_path / "a.gguf")
    assert (output.status, output.out) == (1, "")
    assert "exists already" in output.err
    assert (tmp_path / "a.gguf").read_text() == "mine"


def test_the_type_may_be_written_small(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    assert k2lite("quantize", tiny_folder, tmp_path / "a.gguf", "--type", "q4_0").status == 0
    with GgufFile.open(tmp_path / "a.gguf") as file:
        assert file.tensors["blk.1.ffn_gate_exps.weight"].type.name == "Q4_0"


def test_a_folder_without_a_model_is_refused(k2lite: CommandLine, tmp_path: Path) -> None:
    output = k2lite("quantize", tmp_path, tmp_path / "a.gguf")
    assert output.status == 1
    assert "config.json" in output.err


def test_control_c_leaves_something_to_go_on_with_or_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    destination = tmp_path / "a.gguf"
    # The first sign of progress is a file beside the destination; the signal comes right after it.
    command = [sys.executable, "-m", "k2lite.cli.main", "quantize", str(tiny_folder), str(destination)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not names(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    if process.returncode == 0:
        pytest.skip("this machine quantized the tiny model faster than a signal could be sent")
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    if names(tmp_path):
        assert "run the same command again to go on" in err
        assert set(names(tmp_path)) == {"a.gguf.part", "a.gguf.journal"}
    else:
        assert "was not written" in err
