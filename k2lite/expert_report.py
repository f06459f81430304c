"""Telling screens, logs and programs where experts are, now and then during an answer."""

import time
from collections.abc import Callable, Iterable

from k2lite.events import ExpertReport, TierReport
from offload.state import ExpertsState

_INTERVAL_S = 0.5
_COST_SHARE = 0.01  # of the time: a report about 23,000 experts takes some milliseconds
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


def _heat(scores: Iterable[float], hottest: float) -> str:
    """One digit for each score: nothing but an unused expert is 0."""
    if hottest <= 0:
        return "0" * len(tuple(scores))
    return "".join(str(0 if score <= 0 else max(1, round(_HOTTEST * score / hottest))) for score in scores)


class ReportClock:
    """Makes a report when one is due: at most every half second, and so seldom that it costs less than a hundredth."""

    def __init__(self, state: Callable[[], ExpertsState]) -> None:
        self._state = state
        self._due = time.perf_counter() + _INTERVAL_S

    def report(self, at_end: bool = False) -> list[ExpertReport]:
        """A report, if it is time for one or the answer has ended."""
        now = time.perf_counter()
        if now < self._due and not at_end:
            return []
        report = expert_report(self._state())
        end = time.perf_counter()
        self._due = end + max(_INTERVAL_S, (end - now) / _COST_SHARE)
        return [] if report is None else [report]
