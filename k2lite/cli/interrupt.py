"""Ctrl-C as a polite request: the first one asks to stop, the second one interrupts."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from k2lite.cli.notes import print_note
from quant.errors import K2Error

# Long enough for any way out, short enough for the one who waits.
_AGAIN_AFTER_S = 1.0


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Ctrl-C that is not lost: while the block has not ended, the interrupt is raised again after a second.

    Python drops an exception that comes while some libraries are loaded, because these clear errors of their own.
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

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        nonlocal armed
        armed = True
        signal.signal(signal.SIGALRM, interrupt)
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
