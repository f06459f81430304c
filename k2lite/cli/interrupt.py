"""Ctrl-C as a polite request: the first one asks to stop, the second one interrupts."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from k2lite.cli.notes import print_note
from quant.errors import K2Error

# Long enough for any way out, short enough for the one who waits.
_AGAIN_AFTER_S = 1.0

# Libraries that are being loaded are let finish for that long: torch takes 2 s, from a slow drive 5.
_LOADING_PATIENCE_S = 10.0
_LOADING_CHECK_S = 0.02


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Ctrl-C that is not lost: while the block has not ended, the interrupt is raised again after a second.

    It waits for a library that is being loaded: one that is cut off there leaves half of itself behind, and whoever
    asks for it next (as somebody's "is it installed?" does) gets an error of another kind. Python drops an exception
    that comes in some other moments, where libraries clear errors of their own.
    Does nothing outside the main thread, and where somebody else has decided what Ctrl-C means.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:
        yield
        return
    armed = False
    latest_s = 0.0

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        nonlocal armed, latest_s
        if not armed:
            armed, latest_s = True, time.monotonic() + _LOADING_PATIENCE_S
        signal.signal(signal.SIGALRM, interrupt)
        if _is_loading(frame) and time.monotonic() < latest_s:
            signal.setitimer(signal.ITIMER_REAL, _LOADING_CHECK_S)
            return
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER_S)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, previous)


def _is_loading(frame: FrameType | None) -> bool:
    """Whether an import is under way where the signal came."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def stop_on_interrupt(*stopped: type[K2Error]) -> Iterator[threading.Event]:
    """An event that Ctrl-C sets. Main thread only. A second Ctrl-C raises KeyboardInterrupt as usual.

    `stopped` are the errors with which the block ends when it has followed: told, and KeyboardInterrupt from here on.
    """
    stop = threading.Event()

    def ask_to_stop(signal_number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield stop
    except stopped as error:
        print_note(str(error))
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, previous)
