"""The journal keeps what was promised, whatever a power cut or a stray byte makes of its end."""

import errno
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from quant.convert.job_types import Stretch
from quant.convert.journal import Journal, JournalContent
from quant.errors import OutputError

STRETCHES = (Stretch(0, 0, 100, "aa"), Stretch(0, 100, 250, "bb"), Stretch(1, 0, 70, "cc"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three stretches."""
    path = tmp_path / "a.gguf.journal"
    journal = Journal(path)
    journal.start({"type": "Q4_K_M"}, "digest", ["a.gguf.part"])
    journal.append(STRETCHES[:1])
    journal.append(STRETCHES[1:])
    journal.close()
    return path


def read(path: Path) -> JournalContent | None:
    journal = Journal(path)
    try:
        return journal.read()
    finally:
        journal.close()


def test_what_was_appended_is_read(path: Path) -> None:
    content = read(path)
    assert content is not None
    assert content.stretches == STRETCHES and not content.complete
    assert (content.fingerprint, content.layout_digest) == ({"type": "Q4_K_M"}, "digest")
    assert content.parts == ("a.gguf.part",)
    lines = path.read_bytes().splitlines(keepends=True)
    assert content.first_end == len(lines[0]) and content.ends[-1] == path.stat().st_size


def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "b.journal") is None


def test_completion_is_remembered(path: Path) -> None:
    journal = Journal(path)
    journal.keep(path.stat().st_size)
    journal.append_complete()
    journal.close()
    content = read(path)
    assert content is not None and content.complete and content.stretches == STRETCHES


def test_runs_and_their_seconds_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("quant.convert.journal.time", SimpleNamespace(monotonic=lambda: now[0]))
    path = tmp_path / "a.gguf.journal"
    for number, seconds in enumerate((7.0, 30.0)):
        journal = Journal(path)
        if number:
            journal.keep(path.stat().st_size)
            journal.begin_another_run()
        else:
            journal.start({}, "digest", ["a.gguf.part"])
        now[0] += seconds
        journal.append([STRETCHES[number]])
        journal.close()
    content = read(path)
    assert content is not None and content.stretches == STRETCHES[:2]
    assert (content.runs, content.seconds) == (2, 37.0)


def test_a_journal_torn_at_any_byte_keeps_its_whole_lines(path: Path) -> None:
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        content, lines = read(path), data[:size].count(b"\n")
        assert (content is None) == (lines == 0)
        assert content is None or content.stretches == STRETCHES[: lines - 1]


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"{"])
def test_a_torn_end_filled_with_anything_is_left_out(path: Path, filler: bytes) -> None:
    data = path.read_bytes()
    for size in range(data.index(b"\n") + 1, len(data)):
        path.write_bytes(data[:size] + filler * 50 + b"\n")
        content = read(path)
        assert content is not None and content.stretches == STRETCHES[: data[:size].count(b"\n") - 1]


def test_a_journal_of_zeros_is_one_that_was_never_begun(path: Path) -> None:
    path.write_bytes(bytes(500))
    assert read(path) is None


def test_damage_is_never_taken_for_another_promise(path: Path) -> None:
    data, generator = path.read_bytes(), random.Random(0)
    for _ in range(500):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            content = read(path)
        except OutputError as error:
            assert "--restart" in str(error) or "no journal of k2lite" in str(error)
        else:
            assert content is None or content.stretches == STRETCHES[: len(content.stretches)]


def test_damage_before_a_good_line_is_refused_with_the_way_out(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"100", b"999") + lines[2])
    with pytest.raises(OutputError, match=r"damaged at line 2: start again with --restart"):
        read(path)


@pytest.mark.parametrize("content", ["notes of mine\n", '{"a": 1}\n', "{"])
def test_a_file_of_somebody_else_is_refused_unless_it_could_be_ours(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.journal"
    path.write_text(content)
    if content == "{":  # the first byte of a journal that was just begun
        assert read(path) is None
        return
    with pytest.raises(OutputError, match="no journal of k2lite"):
        read(path)
    assert path.read_text() == content


def test_a_newer_version_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("quant.convert.journal._VERSION", 2)
        journal = Journal(path)
        journal.start({}, "digest", [])
        journal.close()
    with pytest.raises(OutputError, match="version 2, this k2lite writes version 1"):
        read(path)


def test_only_one_has_it(path: Path) -> None:
    # The lock belongs to the opened file, not to the process: a second opening stands for a second process.
    journal = Journal(path)
    with pytest.raises(OutputError, match=r"another process is writing a\.gguf: wait"):
        Journal(path)
    journal.close()
    assert read(path) is not None


def test_a_disk_that_is_full_leaves_the_journal_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, write = path.read_bytes(), os.pwrite

    def half_then_full(file: int, piece: bytes, position: int) -> int:
        if len(piece) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, piece[: len(piece) - 10], position)

    journal = Journal(path)
    journal.keep(len(data))
    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left on device"):
        patch.setattr(os, "pwrite", half_then_full)
        journal.append([Stretch(1, 70, 80, "dd")])
    journal.close()
    assert path.read_bytes() == data


def test_a_closed_journal_writes_nothing(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    with pytest.raises(OutputError, match="cannot write"):
        journal.append(STRETCHES)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot create .*missing"):
        Journal(tmp_path / "missing" / "a.journal")
