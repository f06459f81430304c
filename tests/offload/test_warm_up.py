"""Mapped memory that comes in the background."""

import mmap
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pytest

from offload.warm_up import WarmUp, page_in


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 << 20))
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def faults_of_reading(array: np.ndarray) -> int:
    before = getrusage(RUSAGE_SELF).ru_minflt
    assert not array[::4096].any()
    return getrusage(RUSAGE_SELF).ru_minflt - before


def test_pages_are_there_before_they_are_used(mapped: np.ndarray) -> None:
    part = mapped[1000:-1000]
    if not page_in(part):
        pytest.skip("this system cannot populate page tables")
    assert faults_of_reading(part) < 16  # of 1,024 pages


def test_nothing_comes_while_an_answer_is_under_way(mapped: np.ndarray) -> None:
    warm_up = WarmUp([mapped])
    time.sleep(0.05)
    assert not warm_up.is_done
    warm_up.pause(False)
    warm_up.wait()
    assert warm_up.is_done
    warm_up.close()


def test_it_ends_in_the_middle(mapped: np.ndarray) -> None:
    warm_up = WarmUp([mapped] * 1000)
    warm_up.close()
    warm_up.close()
    assert warm_up.is_done
