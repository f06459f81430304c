"""Ctrl-C at any moment of a process: no traceback, and nothing is left, or what the same command goes on with."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k2lite.cli.main import main
from k2lite.environment import child_environment
from tests.bad_input.command_line import PATIENCE_S
from tests.tiny import write_checkpoint

# The command line, which says when it has begun to listen for Ctrl-C: before that Python itself answers it.
STARTER = """
import sys
import k2lite.cli.main as entry
build_parser = entry.build_parser

def told(arguments):
    print("*", flush=True)
    return build_parser(arguments)

entry.build_parser = told
sys.exit(entry.main())
"""


def interrupted(command: list[object], after_s: float, home: Path) -> subprocess.CompletedProcess[str]:
    """Press Ctrl-C `after_s` seconds after the command has begun to listen for it."""
    environment = child_environment() | {"K2LITE_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    arguments = [sys.executable, "-c", STARTER, *map(str, command)]
    with subprocess.Popen(arguments, text=True, env=environment, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "*\n"
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its session is left
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def check_interrupted(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 130, (result.returncode, result.stderr)
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr, result.stderr


DELAYS_S = [0.05, 1.0, *(pytest.param(0.2 + step / 5, marks=pytest.mark.slow) for step in range(14))]


@pytest.fixture(scope="module")
def large_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantizing it takes some seconds."""
    folder = tmp_path_factory.mktemp("large") / "k2"
    return write_checkpoint(folder, "k2", layers=8, experts=64, hidden=1024)


@pytest.mark.slow  # making the source takes long
@pytest.mark.parametrize("after_s", DELAYS_S)
def test_control_c_while_quantizing_leaves_nothing_or_what_to_go_on_with(
    after_s: float, tmp_path: Path, large_source: Path
) -> None:
    result = interrupted(["quantize", large_source, tmp_path / "a.gguf"], after_s, tmp_path / "home")
    left = {path.name for path in tmp_path.iterdir()}
    if "a.gguf" in left:
        pytest.skip("the file was complete before the signal came")
    check_interrupted(result)
    assert left in (set(), {"a.gguf.part", "a.gguf.journal"})
    assert ("run the same command again to go on" in result.stderr) == bool(left)


@pytest.mark.parametrize("after_s", DELAYS_S)
def test_control_c_while_preparing_the_demo_model_leaves_nothing(after_s: float, tmp_path: Path) -> None:
    result = interrupted(["run", "-p", "Tell me a long story.", "--ctx", "4k"], after_s, tmp_path)
    if "ended by" in result.stderr:
        pytest.skip("the answer was complete before the signal came")
    check_interrupted(result)
    left = [path for path in tmp_path.rglob("*") if path.is_file() or ".making" in path.name]
    assert [path for path in left if path.suffix != ".gguf" or path.parent.name != "cache"] == []


@pytest.fixture(scope="module")
def deep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose random answers take long: next to none of its tokens ends one."""
    path = tmp_path_factory.mktemp("deep") / "k2.gguf"
    size = ("--hidden", 256, "--expert-width", 64, "--dense-width", 256, "--vocab", 2048)
    arguments = ("synth", path, "--shape", "k2", "--layers", 12, "--experts", 32, *size, "--type", "Q8_0")
    assert main([str(argument) for argument in arguments]) == 0
    return path


_MOMENTS = random.Random(20)
RANDOM_DELAYS_S = [2.5, *(pytest.param(_MOMENTS.uniform(0, 6), marks=pytest.mark.slow) for _ in range(20))]


@pytest.mark.parametrize("after_s", RANDOM_DELAYS_S)
def test_control_c_while_a_paged_model_answers(
    after_s: float, tmp_path: Path, deep_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(deep_file), "--raw", "-p", "a", "--ram-budget", "1"]) == 1
    least = re.search(r"--ram-budget (\d+) or more", capsys.readouterr().err)
    assert least is not None
    budget = int(least[1]) + 1_000_000
    command = ["run", deep_file, "--raw", "-p", "a " * 400, "-n", 3000, "--ram-budget", budget]
    result = interrupted([*command, "--ctx", 4096], after_s, tmp_path / "home")
    if "ended by stop" in result.stderr:
        pytest.skip("the answer was complete before the signal came")
    check_interrupted(result)
    assert "ended by cancelled" in result.stderr or result.stderr == "", result.stderr


@pytest.mark.parametrize("after_s", DELAYS_S)
def test_control_c_while_scoring_ends_quietly(after_s: float, tmp_path: Path, good_file: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 50_000)
    result = interrupted(["eval", good_file, "--text", text, "--window", 64], after_s, tmp_path / "home")
    check_interrupted(result)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [text]
