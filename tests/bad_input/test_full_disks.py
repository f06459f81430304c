"""Disks without room, as a process meets them: the numbers are told, and nothing is left that nobody can use."""

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_input.command_line import is_one_line, run_process, says


def limited(limit: int) -> Callable[[], None]:
    """What the disk refuses at this length comes back as an error of `write`, as ENOSPC does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_disk_that_has_no_room_for_a_journal_is_left_empty(good_folder: Path, tmp_path: Path) -> None:
    result = run_process("quantize", good_folder, tmp_path / "a.gguf", before=limited(100))
    assert (result.returncode, result.stdout) == (1, "")
    is_one_line(result.stderr)
    says(result.stderr, "cannot write", "a.gguf.journal", "File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_what_the_same_command_goes_on_with(good_folder: Path, tmp_path: Path) -> None:
    destination = tmp_path / "a.gguf"
    result = run_process("quantize", good_folder, destination, before=limited(1_000_000))
    assert (result.returncode, result.stdout) == (1, "")
    said = result.stderr.splitlines(keepends=True)[-1]
    is_one_line(said)
    says(said, "cannot write", " bytes: File too large", "run the same command again to go on")
    assert {path.name for path in tmp_path.iterdir()} == {"a.gguf.part", "a.gguf.journal"}
    assert run_process("quantize", good_folder, destination).returncode == 0
    assert run_process("quantize", good_folder, tmp_path / "b.gguf").returncode == 0
    assert destination.read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_disk_without_room_is_told_the_numbers(good_folder: Path, tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        result = run_process("quantize", good_folder, tmp_path / "a.gguf")
        left = list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert (result.returncode, result.stdout, left) == (1, "", [])
    is_one_line(result.stderr)
    says(result.stderr, "takes", "524,288 free", "choose another disk")


def test_a_demo_model_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    result = run_process("run", "-p", "x", before=limited(100_000), environment={"K2LITE_HOME": str(tmp_path)})
    assert (result.returncode, result.stdout) == (1, "")
    is_one_line(result.stderr)
    says(result.stderr, "cannot write", "File too large")
    assert [path for path in tmp_path.rglob("*") if path.is_file() or ".making" in path.name] == []
