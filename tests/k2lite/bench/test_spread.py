"""Medians with their smallest and largest value, and ratios round by round."""

import pytest

from k2lite.bench.spread import Spread, ratios


def test_a_spread_has_the_middle_and_both_ends() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(median=2.0, least=1.0, most=5.0)


def test_nothing_measured_is_no_spread() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([10.0, 4.0], [5.0, 8.0]) == [2.0, 0.5]


def test_rounds_that_one_side_missed_are_no_ratios() -> None:
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])
