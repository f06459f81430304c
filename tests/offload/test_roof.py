"""The memory's read bandwidth: a plausible number from either reader."""

import time

import numpy as np
import pytest

from offload import roof


@pytest.fixture
def words() -> np.ndarray:
    return np.ones(1 << 19, np.uint64)


def test_both_readers_find_a_bandwidth(words: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    native = roof.ram_read_bandwidth(1, words)
    monkeypatch.setattr(roof, "built_native", lambda: None)
    numpy = roof.ram_read_bandwidth(2, words)
    assert 1e8 < native < 1e13
    assert 1e8 < numpy < 1e13


def test_a_reading_ends_with_its_time(words: np.ndarray) -> None:
    started = time.perf_counter()
    roof.ram_read_bandwidth(1, words, passes=10**9, seconds=0.05)
    assert time.perf_counter() - started < 5
