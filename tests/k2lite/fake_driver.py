"""A card's driver on the processor: native code calls it by address, and it does what a driver would at once."""

import ctypes
from collections.abc import Callable

from k2lite.recording import CallRecorder, Recording
from quant.kernels.card_work import CardCalls

_INT, _POINTER, _ADDRESS = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64


class FakeDriver:
    """Recordings by handles from 1 on, and what was asked for in order. `fail` makes the n-th call from now fail."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []
        self.asked: list[str] = []
        self._fail_in: int | None = None
        functions = (
            ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER)(self._launch),
            ctypes.CFUNCTYPE(_INT, _ADDRESS, _ADDRESS, ctypes.c_size_t, _POINTER)(self._copy),
            ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER)(lambda event, stream: self._answer("record")),
            ctypes.CFUNCTYPE(_INT, _POINTER)(lambda event: self._answer("wait")),
        )
        launch, copy, record, wait = (ctypes.cast(function, _POINTER).value or 0 for function in functions)
        self.calls = CardCalls(launch, copy, record, wait, kept=functions)

    def fail(self, after: int) -> None:
        """The call after so many others fails, once."""
        self._fail_in = after

    def _launch(self, graph: int, stream: int | None) -> int:
        answer = self._answer("launch")
        if not answer:
            self.recordings[graph - 1].replay()
        return answer

    def _copy(self, to: int, source: int, nbytes: int, stream: int | None) -> int:
        ctypes.memmove(to, source, nbytes)
        return self._answer("copy")

    def _answer(self, name: str) -> int:
        self.asked.append(name)
        if self._fail_in is not None:
            self._fail_in -= 1
            if self._fail_in < 0:
                self._fail_in = None
                return 719
        return 0


class DriverRecorder:
    """A recorder whose recordings native code replays. `inner` makes them, calls unless given."""

    def __init__(self, driver: FakeDriver, inner: object = None) -> None:
        self._driver, self._inner, self.calls = driver, inner or CallRecorder(), driver.calls

    def record(self, run: Callable[[], None]) -> Recording:
        """See Recorder.record. It is run, as a graph is before it is captured."""
        run()
        recording = self._inner.record(run)  # type: ignore[attr-defined]
        self._driver.recordings.append(recording)
        return _Handled(recording, len(self._driver.recordings))


class _Handled:
    def __init__(self, recording: Recording, handle: int) -> None:
        self.replay, self.handle = recording.replay, handle
