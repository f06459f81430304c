"""Full disks, foreign locks and leftovers: the destination appears whole or not at all."""

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quant.errors import OutputError
from quant.files.part_file import PartFile


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Let the kernel refuse to make any file longer than `nbytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_name_appears_with_the_last_byte(tmp_path: Path) -> None:
    file = PartFile(tmp_path / "a", 4)
    file.write(b"ab")
    file.write(memoryview(b"cd"))
    assert not (tmp_path / "a").exists()
    file.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"abcd"


def test_the_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    PartFile(tmp_path / "a", 0).commit()
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_too_little_room_is_said_with_the_numbers_before_writing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"takes 4,611,686,018,427,387,904 bytes, but .* free"):
        PartFile(tmp_path / "a", 2**62)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PartFile(tmp_path / "a", 100)
    file.write(b"0123456789")

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="beyond 10 of 100 bytes: No space left"):
        patch.setattr(os, "write", full)
        file.write(b"x")
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_write_the_kernel_cuts_short_is_reported_with_what_was_written(tmp_path: Path) -> None:
    file = PartFile(tmp_path / "a", 8192)
    with file_size_limit(5000), pytest.raises(OutputError, match="beyond 5,000 of 8,192 bytes: File too large"):
        file.write(bytes(8192))
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:3]))
        file = PartFile(tmp_path / "a", 10)
        file.write(b"0123456789")
    file.commit()
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"folder .*missing does not exist"):
        PartFile(tmp_path / "missing" / "a", 1)


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_a_folder_as_destination_exists_already(name: str) -> None:
    with pytest.raises(OutputError, match="exists already"):
        PartFile(Path(name), 10)


def test_a_broken_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        PartFile(tmp_path / "a", 1)


def test_a_destination_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    file = PartFile(tmp_path / "a", 1)
    (tmp_path / "a").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        file.commit()
    file.discard()
    assert (tmp_path / "a").read_text() == "precious"


def test_what_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(bytes(1000))
    file = PartFile(tmp_path / "a", 1)
    file.write(b"x")
    file.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"x"


def test_nobody_else_can_write_the_same_file_meanwhile(tmp_path: Path) -> None:
    # The lock belongs to the opened file, not to the process: a second opening stands for a second process.
    first = PartFile(tmp_path / "a", 1)
    first.write(b"x")
    with pytest.raises(OutputError, match="another process is writing"):
        PartFile(tmp_path / "a", 1)
    first.commit()
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_file_that_was_renamed_while_we_waited_for_its_lock_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PartFile(tmp_path / "a", 1)
    first.write(b"x")
    take = fcntl.flock

    def first_commits_before_the_lock_is_taken(file: int, operation: int) -> None:
        first.commit()
        take(file, operation)

    monkeypatch.setattr(fcntl, "flock", first_commits_before_the_lock_is_taken)
    with pytest.raises(OutputError, match="another process is writing"):
        PartFile(tmp_path / "a", 1)
    assert (tmp_path / "a").read_bytes() == b"x"
