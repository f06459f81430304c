"""A drive in virtual time: its bandwidth, its latency, and who goes first."""

import pytest

from offload.reader import Urgency
from offload.virtual_drive import VirtualDrive


def test_reads_take_their_bytes_one_after_the_other() -> None:
    drive = VirtualDrive(100.0, latency_s=1.0)
    drive.submit((0, 1), 200, Urgency.DEMAND, now=10.0)
    drive.submit((0, 2), 100, Urgency.DEMAND, now=10.0)
    assert drive.next_end() == pytest.approx(13.0)
    assert drive.until(12.9) == []
    assert drive.until(13.0) == [(0, 1)]
    assert drive.next_end() == pytest.approx(14.0)
    assert drive.until(20.0) == [(0, 2)]
    assert (drive.busy_s, drive.nbytes) == (pytest.approx(3.0), pytest.approx(300.0))


def test_what_is_demanded_goes_before_what_is_guessed() -> None:
    drive = VirtualDrive(100.0, latency_s=0.0)
    drive.submit((0, 1), 100, Urgency.LOOK_AHEAD, now=0.0)
    assert drive.until(0.5) == []
    drive.submit((0, 2), 100, Urgency.DEMAND, now=0.5)
    assert drive.next_end() == pytest.approx(1.5)
    assert drive.until(1.5) == [(0, 2)]
    assert drive.until(2.0) == [(0, 1)], "the half that was read is not read again"


def test_a_guess_that_came_true_is_hurried() -> None:
    drive = VirtualDrive(100.0, latency_s=0.0)
    drive.submit((0, 1), 100, Urgency.DEMAND, now=0.0)
    drive.submit((0, 2), 100, Urgency.LOOK_AHEAD, now=0.0)
    drive.submit((0, 3), 100, Urgency.LOOK_AHEAD, now=0.0)
    drive.hurry((0, 3), Urgency.DEMAND)
    assert drive.until(10.0) == [(0, 1), (0, 3), (0, 2)]


def test_time_without_work_is_no_work() -> None:
    drive = VirtualDrive(100.0, latency_s=0.5)
    assert drive.until(100.0) == []
    drive.submit((0, 1), 100, Urgency.DEMAND, now=100.0)
    assert drive.until(101.4) == []
    assert drive.until(101.5) == [(0, 1)]
    assert drive.busy_s == pytest.approx(1.0)
