"""Reading from a place in a file: in as many calls as it takes, or an error that names what is missing."""

import os
from pathlib import Path

import pytest

from quant.errors import CheckpointError, GgufError
from quant.files import positioned_read
from quant.files.positioned_read import expect_long_runs, read_into


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ten"
    path.write_bytes(bytes(range(10)))
    return path


@pytest.mark.parametrize("call_bytes", [1, 3, 100])
def test_long_reads_take_several_calls(path: Path, monkeypatch: pytest.MonkeyPatch, call_bytes: int) -> None:
    monkeypatch.setattr(positioned_read, "_MAX_READ_BYTES", call_bytes)
    target = bytearray(7)
    with path.open("rb") as file:
        read_into(file.fileno(), memoryview(target), 2, path=path, what="it", error=GgufError)
    assert target == bytes(range(2, 9))


def test_the_end_of_the_file_and_a_failing_drive_are_told(path: Path) -> None:
    with path.open("rb") as file, pytest.raises(GgufError, match="ten ends after 10 bytes, in the middle of it"):
        read_into(file.fileno(), memoryview(bytearray(7)), 5, path=path, what="it", error=GgufError)
    writer = os.open(path, os.O_WRONLY)
    with pytest.raises(CheckpointError, match=r"cannot read it of .*ten: Bad file descriptor"):
        read_into(writer, memoryview(bytearray(1)), 0, path=path, what="it", error=CheckpointError)
    os.close(writer)


def test_advice_that_a_file_system_does_not_take_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("rb") as file:
        expect_long_runs(file.fileno())

    def refuse(*arguments: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    expect_long_runs(0)
    monkeypatch.delattr(os, "posix_fadvise")
    expect_long_runs(0)
