"""The queue in front of a drive: what goes first, who joins whom, and what is given up."""

import threading
from pathlib import Path

import pytest

from offload.drive import Drive
from offload.reader import DriveReader, Read, Urgency, cut
from offload.resident import FileRange, page_memory, read_ranges
from quant.errors import StoreError

BLOCK = 4096


class GatedDrive(Drive):
    """A drive that stands still until it is let go, and remembers the order in which it was asked."""

    def __init__(self, path: Path) -> None:
        super().__init__([path])
        self.asked, self.go = threading.Event(), threading.Event()
        self.offsets: list[int] = []

    def read(self, file: int, offset: int, target: memoryview, needed: int) -> None:
        self.asked.set()
        self.go.wait(10)
        self.offsets.append(offset // BLOCK)
        super().read(file, offset, target, needed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(64)) + b"tail")
    return path


def submit(reader: DriveReader, block: int, urgency: Urgency, memory: memoryview, blocks: int = 1) -> Read:
    target = memory[block * BLOCK : (block + blocks) * BLOCK]
    return reader.submit((0, block), cut(0, block * BLOCK, target, len(target), BLOCK), urgency)


def until_taken(reader: DriveReader) -> None:
    """Wait until a thread has begun: what comes now waits behind that."""
    while not reader._running:
        threading.Event().wait(0.001)


def finish(reader: DriveReader) -> list[Read]:
    done = []
    while reader.open_reads:
        done += reader.collect(None)
    return done


def test_demand_goes_before_look_ahead_before_warm_up(path: Path) -> None:
    memory = memoryview(page_memory(64 * BLOCK))
    with GatedDrive(path) as drive, DriveReader([drive], threads_per_drive=1) as reader:
        submit(reader, 0, Urgency.WARM_UP, memory)
        until_taken(reader)
        for block, urgency in ((1, 2), (2, 1), (3, 0), (4, 2), (5, 0)):
            submit(reader, block, Urgency(urgency), memory)
        drive.go.set()
        finish(reader)
        assert drive.offsets[1:] == [3, 5, 2, 1, 4]
    assert all(memory[block * BLOCK] == block for block in range(6))


def test_who_is_in_a_hurry_overtakes_with_what_is_left(path: Path) -> None:
    memory = memoryview(page_memory(64 * BLOCK))
    with GatedDrive(path) as drive, DriveReader([drive], threads_per_drive=1) as reader:
        guess = submit(reader, 10, Urgency.LOOK_AHEAD, memory, blocks=3)
        until_taken(reader)
        submit(reader, 20, Urgency.DEMAND, memory, blocks=2)
        reader.hurry(guess, Urgency.DEMAND)
        reader.hurry(guess, Urgency.WARM_UP)  # nobody becomes less urgent
        drive.go.set()
        assert all(read.is_complete for read in finish(reader))
        assert sorted(drive.offsets) == [10, 11, 12, 20, 21], "nothing is read twice"
        assert drive.offsets[0] == 10 and drive.offsets[1:3] == [20, 21]


def test_what_is_given_up_ends_without_being_read(path: Path) -> None:
    memory = memoryview(page_memory(64 * BLOCK))
    with GatedDrive(path) as drive, DriveReader([drive], threads_per_drive=1) as reader:
        first = submit(reader, 0, Urgency.DEMAND, memory, blocks=4)
        until_taken(reader)
        second = submit(reader, 8, Urgency.DEMAND, memory, blocks=4)
        reader.cancel(second)
        assert reader.collect() == [second] and not second.is_complete
        drive.go.set()
        assert finish(reader) == [first] and first.is_complete
        assert drive.offsets == [0, 1, 2, 3]
        state = reader.state()
        assert state.reads == 2 and state.nbytes == 4 * BLOCK and state.waiting_reads == 0


def test_two_drives_share_the_pieces_of_one_read(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    memory = memoryview(page_memory(64 * BLOCK))
    with GatedDrive(path) as one, GatedDrive(copy) as other, DriveReader([one, other], 1) as reader:
        submit(reader, 0, Urgency.DEMAND, memory, blocks=16)
        assert one.asked.wait(10) and other.asked.wait(10)
        one.go.set()
        other.go.set()
        finish(reader)
        assert sorted(one.offsets + other.offsets) == list(range(16))
        assert one.offsets and other.offsets
    assert all(memory[block * BLOCK] == block for block in range(16))


def test_an_error_ends_the_read_and_no_other(path: Path) -> None:
    memory = memoryview(page_memory(128 * BLOCK))
    with Drive([path]) as drive, DriveReader([drive], 2) as reader:
        beyond = submit(reader, 63, Urgency.DEMAND, memory, blocks=8)
        fine = submit(reader, 3, Urgency.DEMAND, memory)
        finish(reader)
        assert fine.is_complete and isinstance(beyond.error, StoreError)
        assert "ends in the middle" in str(beyond.error)


def test_ranges_come_from_any_byte_to_any_byte(path: Path) -> None:
    content = path.read_bytes()
    ranges = {"a": FileRange(path, 5, 3), "b": FileRange(path, 4090, 20_000), "end": FileRange(path, 64 * BLOCK, 4)}
    seen: list[int] = []
    found = read_ranges(ranges, seen.append)
    for name, r in ranges.items():
        assert bytes(found[name]) == content[r.offset : r.offset + r.nbytes]
    assert seen[-1] >= 20_007 and seen == sorted(seen)


def test_a_file_that_is_missing_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*No such file"):
        Drive([tmp_path / "none"])
    with pytest.raises(StoreError, match="not a regular file"):
        Drive([tmp_path])
