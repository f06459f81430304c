"""Flushes take a fifth of the time, whatever they cost; rates are those of the last seconds."""

import pytest

from tui.pacing import Pacer, RateMeter


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(("cost", "pause"), [(0.001, 0.05), (0.025, 0.1), (1.0, 4.0)])
def test_a_flush_is_followed_by_a_pause_of_four_times_its_cost(cost: float, pause: float) -> None:
    clock = Clock()
    pacer = Pacer(clock)
    assert pacer.due()
    started = clock.time
    clock.time += cost
    pacer.flushed(started)
    clock.time += pause - 0.001
    assert not pacer.due()
    clock.time += 0.002
    assert pacer.due()


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    assert meter.per_second == 0
    for seconds, ticks in ((1.0, 20), (0.1, 200)):
        for _ in range(ticks):
            clock.time += seconds
            meter.tick()
    assert meter.per_second == pytest.approx(10)
    assert meter.count == 220


def test_tokens_further_apart_than_the_window_have_a_rate_too() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    for _ in range(3):
        clock.time += 20
        meter.tick()
    assert meter.per_second == pytest.approx(0.05)
