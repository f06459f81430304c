"""From counters that only grow to what happened lately, tier by tier. Knows no screen."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from k2lite.events import ExpertReport, TierReport

KEPT_SAMPLES = 120


@dataclass
class TierRates:
    """What a tier did between the last two reports, and how fast it was over the last minute (bytes/s)."""

    report: TierReport
    hit_share: float = 0.0
    bytes_per_s: float = 0.0
    speeds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_SAMPLES))

    @property
    def roof_share(self) -> float | None:
        """How much of what was measured as possible is reached while the tier is busy; None where nothing was."""
        roof = self.report.roof_bytes_per_s
        return self.bytes_per_s / roof if roof else None


class Rates:
    """Takes reports as they come. A model that was loaded anew begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, TierReport] = {}
        self._last_time = clock()
        self.tiers: dict[str, TierRates] = {}

    def take(self, report: ExpertReport) -> None:
        """One more report."""
        now = self._clock()
        elapsed, self._last_time = now - self._last_time, now
        names = {tier.name for tier in report.tier_reports}
        self.tiers = {name: rates for name, rates in self.tiers.items() if name in names}
        deltas = {tier.name: self._delta(tier) for tier in report.tier_reports}
        all_hits = sum(hits for hits, _, _ in deltas.values())
        for tier in report.tier_reports:
            hits, size, busy = deltas[tier.name]
            rates = self.tiers.setdefault(tier.name, TierRates(tier))
            rates.report = tier
            if all_hits:
                rates.hit_share = hits / all_hits
            seconds = busy or elapsed
            rates.bytes_per_s = size / seconds if seconds > 0 else 0.0
            rates.speeds.append(rates.bytes_per_s)
            self._last[tier.name] = tier

    def _delta(self, tier: TierReport) -> tuple[int, int, float]:
        before = self._last.get(tier.name)
        if before is None or tier.bytes < before.bytes or tier.hits < before.hits:
            return tier.hits, tier.bytes, tier.busy_s
        return tier.hits - before.hits, tier.bytes - before.bytes, max(0.0, tier.busy_s - before.busy_s)


def merged(name: str, tiers: Sequence[TierRates]) -> TierRates:
    """Several tiers as one, for a screen with few lines."""
    reports = [rates.report for rates in tiers]
    roofs = [report.roof_bytes_per_s for report in reports if report.roof_bytes_per_s]
    total = TierReport(
        name,
        sum(report.capacity_bytes for report in reports),
        sum(report.used_bytes for report in reports),
        sum(report.hits for report in reports),
        sum(report.bytes for report in reports),
        sum(report.busy_s for report in reports),
        sum(roofs) if len(roofs) == len(reports) else None,
    )
    moments = zip(*(rates.speeds for rates in tiers), strict=False)
    speeds = deque((float(sum(moment)) for moment in moments), maxlen=KEPT_SAMPLES)
    return TierRates(total, sum(r.hit_share for r in tiers), sum(r.bytes_per_s for r in tiers), speeds)


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: "deque[float]", top: float, width: int) -> str:
    """The last `width` values as a row of bars between 0 and `top`."""
    shown = list(values)[-width:]
    bars = [_BARS[min(7, max(0, int(8 * value / top)))] if top > 0 else _BARS[0] for value in shown]
    return "".join(bars).rjust(width)
