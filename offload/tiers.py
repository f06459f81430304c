"""What decoding and prefill share: the tiers, what is known about them, and waiting for the drive."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from offload.dispatch import MeasuredSpeeds
from offload.multiply import Multiplier
from offload.pool import Pool
from offload.ram_tier import RamTier
from offload.residency import Residency
from offload.slots import ExpertKey
from offload.state import Stopped
from offload.tally import Tally
from quant.kernels.expert_records import ExpertRecords

# At least this often a wait looks whether it was stopped.
_STOP_LOOK_S = 0.05


@dataclass(frozen=True)
class LayerFacts:
    """The experts of a layer: how many there are, and an expert's bytes and weights."""

    experts: int
    expert_bytes: int
    expert_weights: int


@dataclass
class Tiers:
    """All that one model's experts live in. Owned by the thread that computes.

    `records` are kept for kernels that look up by themselves which experts are in RAM; none where they cannot.
    """

    layers: Mapping[int, LayerFacts]
    residency: Residency
    ram: RamTier
    pool: Pool
    multiplier: Multiplier
    speeds: MeasuredSpeeds
    tally: Tally
    stop: threading.Event | None = None
    clock: Callable[[], float] = time.perf_counter
    records: Mapping[int, ExpertRecords] = field(default_factory=dict)
    _held: dict[ExpertKey, int] = field(default_factory=dict)

    def hold(self, key: ExpertKey) -> None:
        """Keep an expert where it is until it is released."""
        self.residency.pin(key)
        self._held[key] = self._held.get(key, 0) + 1

    def release(self, keys: Iterable[ExpertKey]) -> None:
        """Undo one `hold` of each."""
        for key in keys:
            self.residency.unpin(key)
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    def release_all(self) -> None:
        """Undo every `hold`: a computation has ended, in whatever way."""
        for key, count in self._held.items():
            for _ in range(count):
                self.residency.unpin(key)
        self._held.clear()

    def wait(self) -> list[ExpertKey]:
        """Wait until some expert has come from the drive; returns those that have. Raises Stopped, StoreError."""
        started = self.clock()
        try:
            while True:
                self.check_stop()
                arrived = self.ram.collect(_STOP_LOOK_S)
                if arrived:
                    return arrived
                if not self.ram.open_reads:
                    self.pool.finish_moves()  # what holds the slots that somebody waits for
                    return arrived
        finally:
            self.tally.stall_s += self.clock() - started

    def cpu_worked(self, nbytes: int, shared_bytes: int, seconds: float) -> None:
        """The CPU multiplied `nbytes` of weights by one token, `shared_bytes` of them of no tier."""
        self.tally.cpu_worked(nbytes, shared_bytes, seconds)
        self.speeds.cpu(nbytes, seconds)

    def cpu_computed(self, operations: float, seconds: float) -> None:
        """The CPU did `operations` with many tokens."""
        self.tally.ram.busy_s += seconds
        self.speeds.arithmetic(operations, seconds)

    def check_stop(self) -> None:
        """Raises Stopped when the answer is no longer wanted."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped
