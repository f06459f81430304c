"""Nothing is recorded before it is on the drive, and the writer waits only for a drive that is far behind."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant.convert import sync as convert_sync
from quant.convert.job_types import Stretch
from quant.convert.journal import Journal
from quant.convert.sync import Syncer, Written
from quant.errors import OutputError

WAIT_S = 30


class Drive:
    """A drive that takes data when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, journal: Journal) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.rounds = 0
        self._sync = os.fdatasync
        self._journal = journal
        monkeypatch.setattr(os, "fdatasync", self._fdatasync)

    def _fdatasync(self, descriptor: int) -> None:
        if descriptor != self._journal._file:
            self.rounds += 1
            self.asked.set()
            assert self.go_on.wait(WAIT_S)
        self._sync(descriptor)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "a.journal")
    journal.start({}, "", [])
    yield journal
    journal.close()


@pytest.fixture
def descriptor(tmp_path: Path) -> int:
    return os.open(tmp_path / "a.part", os.O_RDWR | os.O_CREAT)


def written(descriptor: int, number: int, *, last: bool = False) -> Written:
    return Written(descriptor, Stretch(0, 100 * number, 100 * number + 100, str(number)), last)


def test_a_record_waits_for_the_drive_and_others_share_the_next_round(
    journal: Journal, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Drive(monkeypatch, journal)
    syncer = Syncer(journal, 100)
    syncer.put(written(descriptor, 0))
    assert drive.asked.wait(WAIT_S)
    for number in range(1, 5):
        syncer.put(written(descriptor, number, last=number == 4))
    content = journal.read()
    assert content is not None and content.stretches == ()
    drive.go_on.set()
    assert [stretch.digest for stretch in syncer.close()] == list("01234")
    syncer.check()
    assert drive.rounds == 2
    content = journal.read()
    assert content is not None and len(content.stretches) == 5
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_writer_waits_for_a_drive_that_is_far_behind(
    journal: Journal, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_sync, "_LEAST_WAITING_BYTES", 0)
    drive = Drive(monkeypatch, journal)
    syncer, put = Syncer(journal, 100), threading.Event()

    def write() -> None:
        for number in range(4):
            syncer.put(written(descriptor, number))
        put.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert drive.asked.wait(WAIT_S)
    assert not put.wait(0.05)
    drive.go_on.set()
    assert put.wait(WAIT_S)
    writer.join()
    assert len(syncer.close()) == 4


def test_what_the_drive_refuses_is_not_recorded(
    journal: Journal, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        syncer = Syncer(journal, 100)
        syncer.put(written(descriptor, 0))
        syncer.put(written(descriptor, 1))
        assert syncer.close() == []
    with pytest.raises(OutputError, match="the drive did not take what was written: Input/output error"):
        syncer.check()
    content = journal.read()
    assert content is not None and content.stretches == ()
