"""Identities of files: what changes them, and what an unreadable file says."""

from pathlib import Path

import pytest

from quant.errors import CheckpointError
from quant.files.file_identity import content_identity, file_identity


def test_content_is_told_apart_and_time_does_not_matter(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("one")
    second.write_text("one")
    assert content_identity(first, CheckpointError) == content_identity(second, CheckpointError)
    second.write_text("two")
    assert content_identity(first, CheckpointError) != content_identity(second, CheckpointError)
    assert content_identity(first, CheckpointError).startswith("3 bytes, content ")


def test_length_time_and_header_are_in_the_identity_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(5))
    status = path.stat()
    assert file_identity(status, "0123456789abcdef0123") == (
        f"5 bytes, written at {status.st_mtime_ns} ns, header 0123456789abcdef"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*gone: No such file"):
        content_identity(tmp_path / "gone", CheckpointError)
