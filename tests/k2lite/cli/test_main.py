"""The command's frame: help, versions, errors, exit statuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from k2lite import __version__
from k2lite.cli.main import COMMANDS
from tests.k2lite.cli.conftest import CommandLine


def test_version(k2lite: CommandLine) -> None:
    assert k2lite("--version").out == f"k2lite {__version__}\n"


def test_help_names_every_command(k2lite: CommandLine) -> None:
    output = k2lite("--help")
    assert output.status == 0
    assert all(f"    {name} " in output.out for name in COMMANDS)
    assert "k2lite run k2.gguf -p" in output.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, k2lite: CommandLine) -> None:
    output = k2lite(command, "--help")
    assert output.status == 0
    assert f"examples:\n  k2lite {command}" in output.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("run", "--ctxx", "3"), "unrecognized arguments: --ctxx"),
        (("run", "--temp", "3"), "unrecognized arguments: --temp"),
        (("run", "-p", "x", "--ctx", "lots"), "'lots' is not a size: write a number with or without k, M, G or T"),
        (("run", "-p", "x", "--ctx", "0"), "0 must be 1 or more"),
        (("run", "-p", "x", "--top-p", "1.5"), "top_p is 1.5, but must be above 0 and at most 1"),
        (("run", "-p", "x", "--temperature", "warm"), "'warm' is not a number"),
        (("run", "-p", "x", "--temperature", "nan"), "temperature is nan, but must be between"),
        (("run",), "no prompt: give one with -p TEXT"),
        (("run", "-p", ""), "the prompt is empty"),
        (("run", "-p", "x", "--raw", "--system", "y"), "--system works through the chat template"),
        (("run", "-p", "x", "--raw", "--thinking", "on"), "--thinking works through the chat template"),
        (("run", "-p", "x", "--json", "--show-thinking", "always"), "--json prints thinking"),
        (("quantize", "a", "b", "--type", "Q9"), "unknown recipe 'Q9'"),
        (("eval", "some.gguf"), "no text: name one with --text FILE"),
        (("eval", "--against", "a", "--against-source", "b"), "there can be one reference"),
        (("chat",), "chat needs a terminal"),
    ],
)
def test_wrong_use_is_told_and_exits_2(arguments: tuple[str, ...], complaint: str, k2lite: CommandLine) -> None:
    output = k2lite(*arguments)
    assert (output.status, output.out) == (2, "")
    assert complaint in output.err


def test_what_fails_is_told_on_one_line_and_exits_1(k2lite: CommandLine, tmp_path: Path) -> None:
    output = k2lite("inspect", tmp_path / "absent.gguf")
    assert (output.status, output.out) == (1, "")
    assert output.err.startswith("k2lite: ")
    assert output.err.count("\n") == 1


def test_an_error_cannot_steer_the_terminal(k2lite: CommandLine, tmp_path: Path) -> None:
    output = k2lite("inspect", tmp_path / "bad\x1b[2J\nname.gguf")
    assert "bad␛[2J name.gguf" in output.err
    assert output.err.count("\n") == 1


def test_a_variable_stands_for_an_option_and_the_option_wins(
    k2lite: CommandLine, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2LITE_MAX_TOKENS", "3")
    monkeypatch.setenv("K2LITE_JSON", "1")
    assert '"completion_tokens": 3,' in k2lite("run", tiny_file, "-p", "hello", "--seed", 1).out
    assert '"completion_tokens": 2,' in k2lite("run", tiny_file, "-p", "hello", "--seed", 1, "-n", "2").out


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("K2LITE_CTX", "lots", "the variable K2LITE_CTX is not usable: 'lots' is not a size"),
        ("K2LITE_JSON", "yes", "the variable K2LITE_JSON is 'yes', but must be one of 0, 1"),
        ("K2LITE_THINKING", "maybe", "the variable K2LITE_THINKING is 'maybe', but must be one of on, off"),
    ],
)
def test_a_bad_variable_is_an_error(
    name: str, value: str, complaint: str, k2lite: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    output = k2lite("run", "-p", "x")
    assert output.status == 2
    assert complaint in output.err


def test_a_reader_that_has_seen_enough_is_no_traceback(tiny_folder: Path) -> None:
    command = f"{sys.executable} -m k2lite.cli.main inspect {tiny_folder} | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stderr == ""


@pytest.mark.parametrize("redirection", [">&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(redirection: str, tiny_folder: Path) -> None:
    command = f"{sys.executable} -m k2lite.cli.main inspect {tiny_folder} {redirection}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(tiny_folder: Path) -> None:
    command = f"{sys.executable} -m k2lite.cli.main inspect {tiny_folder} > /dev/full"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "k2lite: the output cannot be written: its disk is full\n")
