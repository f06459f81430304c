"""Measuring a drive: of a file or in a folder, direct or not, and nothing left behind."""

import os
from pathlib import Path

import pytest

from offload import probe_drive
from offload.probe_drive import ProbeError, file_system_of
from offload.probe_drive import probe_drive as probe


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_drive, "_SCRATCH_BYTES", 128 << 20)


def test_a_folder_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    found = probe(tmp_path, seconds=0.05)
    assert found.bytes_per_s > 1e6
    assert found.read_bytes >= probe_drive.REQUEST_BYTES
    assert not list(tmp_path.iterdir())


def test_a_file_is_measured_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(64 << 20))
    assert probe(path, seconds=0.05).bytes_per_s > 1e6
    assert path.stat().st_size == 64 << 20


def test_without_direct_reads_the_file_is_dropped_from_memory_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = []
    advise = os.posix_fadvise
    monkeypatch.setattr(probe_drive, "_takes_direct", lambda path: False)
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: dropped.append(arguments[3]) or advise(*arguments))
    found = probe(tmp_path, seconds=0.05)
    assert not found.direct
    assert os.POSIX_FADV_DONTNEED in dropped


def test_a_file_too_small_to_say_anything_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(bytes(1000))
    with pytest.raises(ProbeError, match="1000 bytes"):
        probe(path)


def test_a_folder_that_takes_no_file_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="--drive"):
        probe(tmp_path / "missing")


def test_a_read_that_fails_ends_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(probe_drive._Reading, "_read", fail)
    with pytest.raises(ProbeError, match="Input/output error"):
        probe(tmp_path, seconds=0.05)
    assert not list(tmp_path.iterdir())


def test_the_file_system_is_named() -> None:
    assert file_system_of(Path("/proc/self")) == "proc"
