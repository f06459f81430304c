"""A side's process: it stands still unless it is asked, and its failures come back as errors."""

import os
import signal

import psutil
import pytest

from k2lite.bench.worker import Worker
from quant.errors import EngineError, K2Error

MISSING = {"path": "/nowhere/model.gguf", "capacity": 8, "threads": 1, "pin": False, "kernels": "native"}


def test_a_side_answers_and_stands_still_in_between() -> None:
    with Worker("roof") as roof:
        roof.ask("load", nbytes=1 << 20)
        assert psutil.Process(roof.pid).status() == psutil.STATUS_STOPPED
        assert roof.ask("roof", threads=1)["bytes_per_s"] > 0
        assert psutil.Process(roof.pid).status() == psutil.STATUS_STOPPED
    assert not psutil.pid_exists(roof.pid)


def test_an_error_of_a_side_is_raised_here() -> None:
    with Worker("k2lite") as side, pytest.raises(K2Error, match=r"/nowhere/model\.gguf"):
        side.ask("load", **MISSING)


def test_a_side_that_is_killed_says_so() -> None:
    with Worker("roof") as roof:
        os.kill(roof.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="roof was killed, most often because memory ran out"):
            roof.ask("load", nbytes=8)


def test_a_side_that_crashes_shows_its_traceback() -> None:
    with Worker("roof") as roof:
        with pytest.raises(EngineError) as caught:
            roof.ask("load", bytes_of_tomorrow=8)
        assert "bytes_of_tomorrow" in "".join(caught.value.__notes__)
