"""Telling screens, logs and programs where experts are, now and then during an answer."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from k2lite.events import ExpertReport, TierReport
from offload.state import ExpertsState

_INTERVAL_S = 0.5
_COST_SHARE = 0.004  # of the time: a report about 23,000 experts takes some milliseconds
_HOTTEST = 9


def expert_report(state: ExpertsState) -> ExpertReport | None:
    """The event that says what `state` does. None when there are no experts."""
    if not state.places:
        return None
    layers = range(min(state.places), max(state.places) + 1)
    hottest = max((max(scores, default=0.0) for scores in state.scores.values()), default=0.0)
    return ExpertReport(
        first_layer=layers.start,
        places=tuple(state.places.get(layer, "") for layer in layers),
        heat=tuple(_heat(state.scores.get(layer, ()), hottest) for layer in layers),
        used=tuple(state.used.get(layer, ()) for layer in layers),
        tier_reports=tuple(
            TierReport(
                name=tier.name,
                capacity_bytes=tier.capacity_bytes,
                used_bytes=tier.used_bytes,
                hits=tier.hits,
                bytes=tier.nbytes,
                busy_s=tier.busy_s,
                roof_bytes_per_s=tier.roof_bytes_per_s,
            )
            for tier in state.tiers
        ),
        evictions=state.evictions,
        promotions=state.promotions,
        stall_s=state.stall_s,
        queue_depth=state.queue_depth,
        lookahead_reads=state.lookahead_reads,
        lookahead_used=state.lookahead_used,
        notes=state.notes,
    )


def _heat(scores: Sequence[float], hottest: float) -> str:
    """One digit for each score: nothing but an unused expert is 0."""
    if hottest <= 0:
        return "0" * len(scores)
    values = np.asarray(scores)
    digits = np.where(values <= 0, 0, np.maximum(1, np.rint(_HOTTEST * values / hottest)))
    return bytes((digits + ord("0")).astype(np.uint8)).decode()


class ReportClock:
    """Makes a report when one is due: at most every half second, and so seldom that it costs next to nothing."""

    def __init__(self, state: Callable[[], ExpertsState], clock: Callable[[], float] = time.perf_counter) -> None:
        self._state, self._clock = state, clock
        self._due = clock() + _INTERVAL_S

    def report(self, at_end: bool = False) -> list[ExpertReport]:
        """A report, if it is time for one or the answer has ended."""
        now = self._clock()
        if now < self._due and not at_end:
            return []
        report = expert_report(self._state())
        end = self._clock()
        self._due = end + max(_INTERVAL_S, (end - now) / _COST_SHARE)
        return [] if report is None else [report]
