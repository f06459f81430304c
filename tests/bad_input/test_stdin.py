"""A prompt on stdin, as a process meets it: closed, empty, binary."""

import os
from pathlib import Path

from tests.bad_input.command_line import is_one_line, run_process, says


def test_stdin_that_was_closed_is_told_apart_from_an_empty_one(good_file: Path) -> None:
    closed = run_process("run", good_file, "-p", "-", before=lambda: os.close(0))
    assert (closed.returncode, closed.stdout) == (1, "")
    is_one_line(closed.stderr)
    says(closed.stderr, "stdin is closed", "-p TEXT")
    empty = run_process("run", good_file, "-p", "-")
    assert (empty.returncode, empty.stdout) == (2, "")
    is_one_line(empty.stderr)
    says(empty.stderr, "the prompt is empty")


def test_a_binary_prompt_is_refused(good_file: Path) -> None:
    utf8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
    result = run_process("run", good_file, "-p", "-", environment=utf8, stdin=good_file.read_bytes()[-5000:])
    assert (result.returncode, result.stdout) == (1, "")
    is_one_line(result.stderr)
    says(result.stderr, "the prompt on stdin is not UTF-8", "convert it")
