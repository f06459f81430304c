"""`k2lite synth`."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.k2lite.cli.conftest import CommandLine
from tests.k2lite.synth_samples import tiny_shape

SMALL = ("--layers", 3, "--experts", 16, "--hidden", 256, "--expert-width", 64, "--dense-width", 128, "--vocab", 600)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A config.json with small heads: those of the shapes cannot be changed."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_shape("k2").config))
    return folder / "config.json"


def test_a_folder_is_made_checked_and_reported(k2lite: CommandLine, tmp_path: Path, config_file: Path) -> None:
    output = k2lite("synth", tmp_path / "out", "--config", config_file, *SMALL, "--form", "fp8", "--threads", 1)
    assert output.status == 0, output.err
    lines = output.out.splitlines()
    assert lines[0].startswith("synthetic mine 3x16")
    assert lines[1].startswith("FP8 ")
    assert any(line.startswith(f"{tmp_path / 'out'}: ") and line.endswith("GB/s") for line in lines)
    assert any(line.startswith("routing: busiest expert 1.") for line in lines)
    assert lines[-1].startswith("forward: 32 tokens, logits finite")
    assert "model-00004-of-000004.safetensors" in names(tmp_path / "out")
    assert k2lite("inspect", tmp_path / "out").status == 0


def test_a_file_of_a_recipe_runs(k2lite: CommandLine, tmp_path: Path, config_file: Path) -> None:
    path = tmp_path / "out.gguf"
    made = k2lite("synth", path, "--config", config_file, *SMALL, "--type", "q4_0", "--no-check", "--seed", 5)
    assert made.status == 0, made.err
    assert "routing" not in made.out
    assert k2lite("run", path, "-p", "hello", "-n", 3, "--threads", 1).status == 0


def test_a_dry_run_prints_sizes_and_touches_nothing(k2lite: CommandLine, tmp_path: Path) -> None:
    output = k2lite("synth", tmp_path / "out", "--shape", "k2", "--layers", 2, "--vocab", 1024, "--dry-run")
    assert output.status == 0
    assert output.out.splitlines()[-1].endswith("bytes in 9 files")
    assert names(tmp_path) == []


def test_what_exists_is_not_overwritten(k2lite: CommandLine, tmp_path: Path, config_file: Path) -> None:
    (tmp_path / "out").mkdir()
    output = k2lite("synth", tmp_path / "out", "--config", config_file, *SMALL)
    assert output.status == 1
    assert "exists already" in output.err
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--shape NAME or --config FILE"),
        (("--shape", "k2", "--config", "x"), "one of the two"),
        (("--shape", "k2", "--form", "fp8", "--type", "Q8_0"), "choose one of them"),
        (("--shape", "k2", "--tokenizer", "x", "--vocab", "600"), "--vocab cannot take effect"),
        (("--shape", "gpt-2"), "invalid choice"),
        (("--shape", "k2", "--type", "Q9"), "unknown recipe 'Q9'"),
        (("--shape", "k2", "--layers", "0"), "must be 1 or more"),
    ],
)
def test_wrong_use_is_refused(k2lite: CommandLine, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    output = k2lite("synth", tmp_path / "out", *arguments)
    assert output.status == 2
    assert message in output.err
    assert names(tmp_path) == []


def test_what_cannot_be_is_a_line_without_a_traceback(k2lite: CommandLine, tmp_path: Path) -> None:
    output = k2lite("synth", tmp_path / "out", "--shape", "deepseek-v3", "--experts", 60)
    assert output.status == 1
    assert output.err.startswith("k2lite: n_groups is 8")
    assert names(tmp_path) == []


@pytest.mark.slow
def test_control_c_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "out"
    command = [sys.executable, "-m", "k2lite.cli.main", "synth", str(path), "--shape", "k2", "--layers", "2"]
    with subprocess.Popen(
        [*command, "--experts", "8", "--vocab", "600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not names(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("this machine made the model faster than a signal could be sent")
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "was not written" in err
    assert names(tmp_path) == []
