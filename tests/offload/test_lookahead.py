"""Guessing what the next layer asks for: what is read, what is counted, and when it keeps still."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from offload.expert_layout import ExpertLayout
from offload.lookahead import WIDTH, LookAhead
from offload.reader import ReaderState, Urgency
from offload.residency import Residency

STREAM = torch.zeros(1, 8)


class FakeTiers:
    """Tiers whose reads end at once, or whose drive says how busy it is."""

    def __init__(self, slots: int = 40) -> None:
        self.layers = {1: SimpleNamespace(experts=32), 2: SimpleNamespace(experts=32), 3: SimpleNamespace(experts=32)}
        layout = ExpertLayout(dict.fromkeys(self.layers, 32), dict.fromkeys(self.layers, 10), 8)
        self.residency = Residency(layout, slots * 10)
        self.ram: Any = self
        self.requested: list[tuple[int, int]] = []
        self.busy_s = self.now = 0.0

    def request(self, key: tuple[int, int], urgency: Urgency) -> bool:
        assert urgency == Urgency.LOOK_AHEAD
        if self.residency.reserve(key) is None:
            return False
        self.residency.arrived(key)
        self.requested.append(key)
        return True

    def hold(self, key: tuple[int, int]) -> None:
        self.residency.pin(key)

    def release(self, keys: list[tuple[int, int]]) -> None:
        for key in keys:
            self.residency.unpin(key)

    def clock(self) -> float:
        return self.now

    def reader_state(self) -> ReaderState:
        return ReaderState(0, 0, self.busy_s, 0.0, 0)


def looking(tiers: Any, guess: list[int]) -> LookAhead:
    return LookAhead(tiers, dict.fromkeys(tiers.layers, lambda stream: guess))


def test_the_best_guesses_that_are_missing_are_read() -> None:
    tiers = FakeTiers()
    assert tiers.residency.reserve((2, 5)) is not None
    tiers.residency.arrived((2, 5))
    look_ahead = looking(tiers, [5, 6, 7, 8, 9, 10, 11, 12])
    look_ahead.announce(1, STREAM)
    look_ahead.guess(1)
    assert tiers.requested == [(2, expert) for expert in range(6, 5 + WIDTH)]
    look_ahead.asked(2, [6, 7, 30])
    assert (look_ahead.reads, look_ahead.used) == (WIDTH - 1, 2)
    look_ahead.announce(3, STREAM)
    look_ahead.guess(3)  # there is no layer behind the last one
    assert len(tiers.requested) == WIDTH - 1


def test_in_front_of_the_first_layer_with_experts_it_guesses_as_well() -> None:
    tiers = FakeTiers()
    looking(tiers, [1, 2]).announce(0, STREAM)
    assert tiers.requested == [(1, 1), (1, 2)]


def test_no_guess_sends_away_what_another_needs() -> None:
    tiers = FakeTiers(slots=2)
    for expert in (1, 2):
        tiers.residency.reserve((2, expert))
        tiers.residency.arrived((2, expert))
    look_ahead = looking(tiers, [1, 2, 3])
    look_ahead.announce(1, STREAM)
    look_ahead.guess(1)
    assert tiers.requested == [] and not tiers.residency.ram.is_pinned((2, 1))


@pytest.mark.parametrize(("right", "goes_on"), [(5, True), (2, False)])
def test_it_switches_itself_off_when_too_little_is_used(right: int, goes_on: bool) -> None:
    tiers = FakeTiers(slots=96)
    look_ahead = looking(tiers, [])
    for step in range(12):
        guess = [(step * 7 + number) % 32 for number in range(6)]
        look_ahead._routers = dict.fromkeys(tiers.layers, lambda stream, guess=guess: guess)
        look_ahead.announce(1, STREAM)
        look_ahead.guess(1)
        look_ahead.asked(2, guess[:right])
        for key in list(tiers.residency.ram):
            tiers.residency.ram.remove(key)
    assert look_ahead.is_off != goes_on
    reads = look_ahead.reads
    look_ahead.announce(1, STREAM)
    look_ahead.guess(1)
    assert (look_ahead.reads > reads) == goes_on


def test_it_keeps_still_when_the_drive_has_no_time_and_guesses_go_wrong() -> None:
    for busy, off in ((0.5, False), (0.99, True)):
        tiers = FakeTiers(slots=96)
        look_ahead = looking(tiers, [1, 2, 3, 4])
        for _ in range(200):
            tiers.now += 1
            tiers.busy_s += busy
            look_ahead.announce(1, STREAM)
            look_ahead.guess(1)
            look_ahead.asked(2, [1, 2, 3])  # three of four
            for key in list(tiers.residency.ram):
                tiers.residency.ram.remove(key)
        assert look_ahead.is_off == off
