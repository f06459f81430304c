"""What the tiers did lately."""

from collections import deque

import pytest

from k2lite.events import ExpertReport, TierReport
from tui.experts.rates import KEPT_SAMPLES, Rates, sparkline


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 0.5
        return self.time


def report(*tiers: TierReport) -> ExpertReport:
    return ExpertReport(0, (), (), (), tiers)


def ram(hits: int, size: int, busy: float) -> TierReport:
    return TierReport("RAM", 100, 50, hits, size, busy, 10e9)


def test_rates_are_those_between_two_reports() -> None:
    rates = Rates(Clock())
    rates.take(report(ram(100, 10**9, 1.0), TierReport("drive", 0, 0, 100, 0, 0.0)))
    rates.take(report(ram(190, 3 * 10**9, 1.25), TierReport("drive", 0, 0, 110, 10**9, 0.0)))
    tier, drive = rates.tiers["RAM"], rates.tiers["drive"]
    assert tier.hit_share == pytest.approx(0.9)
    assert tier.bytes_per_s == pytest.approx(8e9)  # while it was busy
    assert tier.roof_share == pytest.approx(0.8)
    assert drive.bytes_per_s == pytest.approx(2e9)  # without a busy time, of all the time
    assert drive.roof_share is None


def test_a_model_loaded_anew_counts_from_nothing() -> None:
    rates = Rates(Clock())
    rates.take(report(ram(100, 10**9, 1.0)))
    rates.take(report(ram(10, 10**8, 0.1)))
    assert rates.tiers["RAM"].bytes_per_s == pytest.approx(1e9)
    rates.take(report())
    assert rates.tiers == {}


def test_a_minute_is_kept() -> None:
    rates = Rates(Clock())
    for number in range(300):
        rates.take(report(ram(number, number * 10**9, float(number))))
    assert len(rates.tiers["RAM"].speeds) == KEPT_SAMPLES


def test_bars_are_as_high_as_their_share_of_the_roof() -> None:
    assert sparkline(deque([0, 4, 8, 20]), 8, 6) == "  ▁▅██"
    assert sparkline(deque([1, 2, 3]), 3, 2) == "▆█"
    assert sparkline(deque([1.0]), 0, 2) == " ▁"
