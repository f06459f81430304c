"""Full collections of unreachable objects wait for a rest."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from tui.collector import REST_S, IdleCollector


class Knot:
    """Reaches itself: only a collection finds it, and a small one does not once it is old."""

    def __init__(self) -> None:
        self.itself = self


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(clock: Clock) -> Iterator[IdleCollector]:
    collector = IdleCollector(clock)
    collector.begin()
    yield collector
    collector.end()


def old_knot() -> "weakref.ref[Knot]":
    knot = Knot()
    gc.collect(1)  # it has survived, and is looked at by full collections alone
    return weakref.ref(knot)


def test_it_collects_once_nothing_was_done_for_a_while(collector: IdleCollector, clock: Clock) -> None:
    knot = old_knot()
    clock.now_s = REST_S - 0.1
    collector.look()
    assert knot() is not None
    collector.active()
    clock.now_s = REST_S + 0.1
    collector.look()
    assert knot() is not None
    clock.now_s = 2 * REST_S + 0.1
    collector.look()
    assert knot() is None


def test_it_collects_once_for_every_rest(collector: IdleCollector, clock: Clock) -> None:
    clock.now_s = REST_S
    collector.look()
    knot = old_knot()
    clock.now_s = 3 * REST_S
    collector.look()
    assert knot() is not None


def test_it_leaves_no_trace(clock: Clock) -> None:
    before = gc.get_threshold()
    collector = IdleCollector(clock)
    collector.begin()
    assert gc.get_threshold() != before
    collector.end()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
    clock.now_s = 2 * REST_S
    knot = old_knot()
    collector.look()
    assert knot() is not None
