"""Ctrl-C before a command has begun to listen for it, and while it does."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k2lite.cli.interrupt import insistent_interrupts, stop_on_interrupt
from quant.errors import K2Error

SWALLOWED = """
import signal, time
from k2lite.cli.interrupt import insistent_interrupts
try:
    with insistent_interrupts():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass  # as some libraries do while they are loaded
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_that_a_library_drops_comes_again() -> None:
    result = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")


LOADING = """
import signal, time
signal.raise_signal(signal.SIGINT)
time.sleep(0.2)
whole = True
"""


def test_a_library_that_is_being_loaded_is_loaded_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut_off_while_loading.py").write_text(LOADING)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), insistent_interrupts():
        importlib.import_module("cut_off_while_loading")
        time.sleep(30)
    assert sys.modules.pop("cut_off_while_loading").whole


@pytest.mark.parametrize("patience_s", [0.0, 0.3])
def test_one_that_takes_for_ever_is_not(
    patience_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2lite.cli.interrupt._LOADING_PATIENCE_S", patience_s)
    (tmp_path / "never_loaded.py").write_text(LOADING.replace("0.2", "30"))
    monkeypatch.syspath_prepend(str(tmp_path))
    begin_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt), insistent_interrupts():
        importlib.import_module("never_loaded")
    assert time.monotonic() - begin_s < 15
    assert "never_loaded" not in sys.modules


def test_nothing_stays_behind() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), insistent_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_another_meaning_of_the_signal_is_left_alone() -> None:
    def other(number: int, frame: object) -> None:
        """What the caller wants."""

    previous = signal.signal(signal.SIGINT, other)
    try:
        with insistent_interrupts():
            assert signal.getsignal(signal.SIGINT) is other
    finally:
        signal.signal(signal.SIGINT, previous)


class WorkStopped(K2Error):
    """What work raises that was asked to stop."""


def test_work_that_stops_when_asked_says_so_and_ends_as_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(WorkStopped) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        raise WorkStopped("stopped after\n1 of 2")
    assert capsys.readouterr() == ("", "k2lite: stopped after 1 of 2\n")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(K2Error, match="broken"), stop_on_interrupt(WorkStopped):
        raise K2Error("broken")
