"""Work for a card that is the same for every token: recorded once, then queued again in one call instead of dozens.

What is recorded reads and writes buffers that stay where they are, and nothing in it depends on what the host knows.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from k2lite.card_driver import driver_calls
from quant.kernels.card_work import CardCalls


class Recording(Protocol):
    """Work that can be queued again. `handle` is what native code queues it by, None where only Python can."""

    @property
    def handle(self) -> int | None:
        """See above."""

    def replay(self) -> None:
        """Queue it on the current stream, for what its buffers hold by then."""


class Recorder(Protocol):
    """Makes recordings for one device, which are replayed one at a time."""

    @property
    def calls(self) -> CardCalls | None:
        """How native code uses the device and the recordings' handles; None where it cannot."""

    def record(self, run: Callable[[], None]) -> Recording:
        """What `run` queues. It may be run here, so it must not change what it reads."""


class CallRecorder:
    """Where there are no graphs: a replay is a call."""

    calls = None

    def record(self, run: Callable[[], None]) -> Recording:
        """See Recorder.record."""
        return _Call(run)


class _Call:
    handle = None

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run

    def replay(self) -> None:
        self._run()


class GraphRecorder:
    """CUDA graphs that share one pool of memory, since no two of them run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self.calls = driver_calls() if hasattr(torch.cuda.CUDAGraph, "raw_cuda_graph_exec") else None

    def record(self, run: Callable[[], None]) -> Recording:
        """See Recorder.record. Raises RuntimeError where the card cannot record this."""
        stream, graph = self._stream, torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()  # kernels are compiled and measured now: neither can be recorded
                stream.synchronize()
                # Other threads copy meanwhile: that is none of the recording's business.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    run()
                finally:
                    graph.capture_end()
            torch.cuda.current_stream().wait_stream(stream)
        return _Graph(graph)


class _Graph:
    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph
        self.replay = graph.replay

    @property
    def handle(self) -> int:
        """See Recording."""
        return int(self._graph.raw_cuda_graph_exec())


def recorder_for(device: torch.device) -> Recorder:
    """Graphs on a card; on the processor's memory there is nothing to win."""
    return GraphRecorder(device) if device.type == "cuda" else CallRecorder()


class CarefulRecorder:
    """Another recorder until it fails; from then on calls, which are slower and right."""

    def __init__(self, name: str, recorder: Recorder, note: Callable[[str], None]) -> None:
        """`note` is told about the failure of the card called `name`, for the user."""
        self._name, self._recorder, self._note = name, recorder, note

    @property
    def calls(self) -> CardCalls | None:
        """See Recorder.calls."""
        return self._recorder.calls

    def record(self, run: Callable[[], None]) -> Recording:
        """See Recorder.record."""
        try:
            return self._recorder.record(run)
        except RuntimeError as error:  # torch's for all that a card refuses, memory included
            self._recorder = CallRecorder()
            reason = str(error).splitlines()[0]
            self._note(f"{self._name} starts each kernel by itself, which is slower: recording them failed ({reason})")
        return self._recorder.record(run)
