"""Processor, cards, links and a drive that take time and do nothing. The runtime's own code runs on them.

All share a clock, which only work and waiting move.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from offload.dispatch import CardSpeeds
from offload.multiply import CardWork, ExpertBytes, Multiplier
from offload.pool import Move
from offload.pool_device import AddResult
from offload.reader import ReaderState, Urgency
from offload.residency import Residency
from offload.slots import ExpertKey, Slot
from offload.virtual_drive import VirtualDrive
from quant.kernels import ExpertCall, ExpertWeights
from quant.tensor import QuantizedTensor
from quant.types import block_type


class VirtualClock:
    """Seconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def wait_until(self, when: float) -> None:
        """Let time pass to `when`, if that is still to come."""
        self.now = max(self.now, when)


def no_weights() -> ExpertWeights:
    """An expert of one weight in each matrix, for who does not look."""
    f32 = block_type("F32")
    one = QuantizedTensor(f32, (1, 1), np.zeros(4, np.uint8))
    return ExpertWeights(one, one, one)


class VirtualRam:
    """A RamTier: experts of `work_bytes` each that a virtual drive brings; without a drive all are mapped."""

    def __init__(
        self, clock: VirtualClock, residency: Residency, drive: VirtualDrive | None, work_bytes: float
    ) -> None:
        self._clock, self._residency, self._drive, self._work_bytes = clock, residency, drive, work_bytes
        self._weights = no_weights()
        self._reads = 0
        self._lent: list[Slot] = []

    def weights(self, key: ExpertKey) -> ExpertWeights:
        """See RamTier.weights."""
        return self._weights

    def slot_bytes(self, key: ExpertKey) -> Callable[[], np.ndarray]:
        """See RamTier.slot_bytes. Nobody copies anything."""
        return lambda: np.empty(0, np.uint8)

    def content(self, key: ExpertKey) -> Callable[[], ExpertBytes]:
        """See RamTier.content."""
        return self.slot_bytes(key)

    def request(
        self, key: ExpertKey, urgency: Urgency, only_over: float | None = None, instead_of: ExpertKey | None = None
    ) -> bool:
        """See RamTier.request."""
        assert self._drive is not None, f"{key} is mapped"
        if key in self._drive:
            self._drive.hurry(key, urgency)
            return True
        if self._residency.reserve(key, only_over, instead_of) is None:
            return False
        self._reads += 1
        self._drive.submit(key, self._work_bytes, urgency, self._clock.now)
        return True

    def lend(self, nbytes: int) -> None:
        """See RamTier.lend."""
        self._residency.give_back(self._lent)
        self._lent = self._residency.lend(nbytes)

    @property
    def lent_bytes(self) -> int:
        """See RamTier.lent_bytes. Nobody asks."""
        return 0

    @property
    def promised_bytes(self) -> int:
        """See RamTier.promised_bytes. Nobody asks."""
        return 0

    def is_under_way(self, key: ExpertKey) -> bool:
        """See RamTier.is_under_way."""
        return self._drive is not None and key in self._drive

    def collect(self, timeout_s: float | None = 0.0) -> list[ExpertKey]:
        """See RamTier.collect. Waiting lets time pass to the end of the next read."""
        if self._drive is None:
            return []
        arrived = self._drive.until(self._clock.now)
        if not arrived and timeout_s != 0 and len(self._drive):
            self._clock.wait_until(self._drive.next_end())
            arrived = self._drive.until(self._clock.now)
        for key in arrived:
            self._residency.arrived(key)
        return arrived

    @property
    def open_reads(self) -> int:
        """See RamTier.open_reads."""
        return 0 if self._drive is None else len(self._drive)

    def cancel(self) -> None:
        """Nobody stops an answer that was given long ago."""

    def reader_state(self) -> ReaderState | None:
        """See RamTier.reader_state."""
        if self._drive is None:
            return None
        self._drive.until_now(self._clock.now)
        return ReaderState(self._reads, int(self._drive.nbytes), self._drive.busy_s, 1.0, len(self._drive))

    def close(self) -> None:
        """Nothing to end."""


class VirtualProcessor(Multiplier):
    """Takes as long as `bytes_per_s` says, and computes nothing."""

    def __init__(
        self, clock: VirtualClock, bytes_per_s: float, work_bytes: float, within: "Sequence[VirtualLink]"
    ) -> None:
        """`within` are copies inside of the host's memory: they and the processor get half of it each, and take twice
        as long."""
        self._clock, self._expert_s, self._within = clock, work_bytes / bytes_per_s, within

    def add(self, x: Tensor, calls: Sequence[ExpertCall], y: Tensor) -> None:
        """See Multiplier.add."""
        self.work(len(calls) * self._expert_s)

    def work(self, seconds: float) -> None:
        """Let as much time pass as `seconds` of undisturbed work take."""
        disturbed_s = 0.0
        for link in self._within:
            shared_s = min(seconds, max(0.0, link.busy_until - self._clock.now))
            link.delay(shared_s)
            disturbed_s = max(disturbed_s, shared_s)
        self._clock.pass_by(seconds + disturbed_s)


class SimulatedCard:
    """A PoolDevice that works beside the processor. When `host` is given it lies in host memory, and `host` works."""

    is_exact, sending = True, None  # prompts are not simulated

    def __init__(
        self,
        name: str,
        clock: VirtualClock,
        speeds: CardSpeeds,
        work_bytes: float,
        host: VirtualProcessor | None = None,
    ) -> None:
        self.name = name
        self._clock, self._host = clock, host
        self._expert_s = work_bytes / speeds.memory_bytes_per_s
        self._handover_s = speeds.handover_s

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        """See PoolDevice.upload: the link takes the time."""

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        """See PoolDevice.download."""

    def begin(self, x: Tensor, works: Sequence[CardWork]) -> AddResult:
        """See PoolDevice.begin."""
        seconds, host = len(works) * self._expert_s, self._host
        if host is not None:
            return lambda y: host.work(seconds)
        end = self._clock.now + self._handover_s + seconds
        return lambda y: self._clock.wait_until(end)

    def share(self, layer: int) -> None:
        """See PoolDevice.share: it is always asked."""

    def moved(self, key: ExpertKey, slot: Slot | None) -> None:
        """See PoolDevice.moved."""

    def close(self) -> None:
        """Nothing to free."""


class VirtualLink:
    """A Copier: one copy after the other, each as long as the link takes for `work_bytes`."""

    def __init__(self, clock: VirtualClock, speeds: CardSpeeds, work_bytes: float) -> None:
        self._clock, self._copy_s = clock, work_bytes / speeds.link_bytes_per_s
        self.busy_until = 0.0
        self._moves: deque[tuple[float, Move]] = deque()

    def submit(self, move: Move) -> None:
        """See Copier.submit."""
        self.busy_until = max(self.busy_until, self._clock.now) + self._copy_s
        move.seconds = self._copy_s
        self._moves.append((self.busy_until, move))

    def delay(self, seconds: float) -> None:
        """What is under way and what waits behind it take longer."""
        late = [(end + seconds, move) for end, move in self._moves if end > self._clock.now]
        if late:
            late[0][1].seconds += seconds
            self.busy_until += seconds
            done = len(self._moves) - len(late)
            self._moves = deque([*islice(self._moves, done), *late])

    def done(self) -> list[Move]:
        """See Copier.done."""
        count = sum(end <= self._clock.now for end, _ in self._moves)
        done = [move for _, move in islice(self._moves, count)]
        for _ in done:
            self._moves.popleft()
        return done

    def wait(self) -> None:
        """See Copier.wait."""
        if self._moves:
            self._clock.wait_until(self._moves[0][0])

    def close(self) -> None:
        """Nothing is under way in reality."""


def one_row(count: int) -> tuple[Tensor, Tensor]:
    """A token of one value, and weights for `count` experts: as little as the runtime takes."""
    return torch.zeros(1, 1), torch.ones(1, count)
