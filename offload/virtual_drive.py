"""A drive in virtual time: the most urgent read first, at the drive's bandwidth, and nothing is really read."""

from dataclasses import dataclass

from offload.reader import Urgency
from offload.slots import ExpertKey


@dataclass
class _Read:
    key: ExpertKey
    urgency: Urgency
    left_bytes: float
    order: int


class VirtualDrive:
    """Reads that finish at the times at which a drive of `bytes_per_s` would finish them.

    Pieces of one expert are read together, as the reader's threads do, so one expert after the other is complete.
    `latency_s` passes before the first byte after a time without work.
    """

    def __init__(self, bytes_per_s: float, latency_s: float) -> None:
        self._bytes_per_s, self._latency_s = bytes_per_s, latency_s
        self._reads: dict[ExpertKey, _Read] = {}
        self._now, self._order = 0.0, 0
        self._ready_at = 0.0
        self.busy_s, self.nbytes = 0.0, 0.0

    def submit(self, key: ExpertKey, nbytes: float, urgency: Urgency, now: float) -> None:
        """Begin to read at the time `now`, not before the last one that was told."""
        if not self._reads:
            self._ready_at = now + self._latency_s
            self._now = now
        self._order += 1
        self._reads[key] = _Read(key, urgency, nbytes, self._order)

    def hurry(self, key: ExpertKey, urgency: Urgency) -> None:
        """Make a read more urgent."""
        read = self._reads[key]
        read.urgency = min(read.urgency, urgency)

    def __contains__(self, key: ExpertKey) -> bool:
        return key in self._reads

    def __len__(self) -> int:
        return len(self._reads)

    def until(self, now: float) -> list[ExpertKey]:
        """Let time pass to `now`; returns what has become complete, in order."""
        done = []
        while self._reads:
            read = self._most_urgent()
            start = max(self._now, self._ready_at)
            end = start + read.left_bytes / self._bytes_per_s
            if end > now:
                moved = max(0.0, now - start)
                read.left_bytes -= moved * self._bytes_per_s
                self._count(moved)
                break
            self._count(end - start)
            self._now = end
            del self._reads[read.key]
            done.append(read.key)
        self._now = max(self._now, now)
        return done

    def until_now(self, now: float) -> None:
        """Count the work up to `now`. What is complete stays to be handed out by `until`."""
        if self._reads and self.next_end() > now:
            self.until(now)

    def next_end(self) -> float:
        """When the next read will be complete. Only while there is one."""
        return max(self._now, self._ready_at) + self._most_urgent().left_bytes / self._bytes_per_s

    def _most_urgent(self) -> _Read:
        return min(self._reads.values(), key=lambda read: (read.urgency, read.order))

    def _count(self, seconds: float) -> None:
        self.busy_s += seconds
        self.nbytes += seconds * self._bytes_per_s
