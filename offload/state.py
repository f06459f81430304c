"""What the experts' keeper tells about itself, and how it is stopped."""

from collections.abc import Mapping
from dataclasses import dataclass


class Stopped(Exception):
    """The answer was stopped in the middle of a computation, which is worth nothing."""


@dataclass(frozen=True)
class TierState:
    """One tier since the start. `name` is "card 0", "RAM", "drive".

    `hits` are experts that were used out of it, `nbytes` their weights; `busy_s` is the time in which the tier's
    processor or drive worked. `roof_bytes_per_s` is the highest rate that it has kept up for a while, None before it
    had enough to do.
    """

    name: str
    capacity_bytes: int
    used_bytes: int
    hits: int
    nbytes: int
    busy_s: float
    roof_bytes_per_s: float | None = None


@dataclass(frozen=True)
class ExpertsState:
    """Where experts are and how much they are used.

    By layer: `places` has one character an expert, "." on the drive, "r" in RAM, "0" to "9" a card's number (the last
    digit); `scores` one number an expert; `used` those of the latest token. `stall_s` is how long tokens waited for
    the drive with nothing else to do, `queue_depth` how many requests the drive had at a time while it worked.
    """

    places: Mapping[int, str]
    scores: Mapping[int, tuple[float, ...]]
    used: Mapping[int, tuple[int, ...]]
    tiers: tuple[TierState, ...]
    evictions: int = 0
    promotions: int = 0
    stall_s: float = 0.0
    queue_depth: float = 0.0
    lookahead_reads: int = 0
    lookahead_used: int = 0
    notes: tuple[str, ...] = ()
