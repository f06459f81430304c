"""The time of a layer: the slowest place counts, and seldom is not never."""

import math

import pytest

from offload.hit_curve import even, nominal, pessimistic
from offload.roofline import Rates, Shares, layer_times, outcome_s

MB = 10**6
RATES = Rates(card=1000 * MB, ram=100 * MB, drive=10 * MB)


def test_places_work_at_once() -> None:
    assert outcome_s(card=8, ram=0, drive=0, expert_bytes=MB, rates=RATES) == pytest.approx(0.008)
    assert outcome_s(card=4, ram=4, drive=0, expert_bytes=MB, rates=RATES) == pytest.approx(0.04)
    assert outcome_s(card=0, ram=6, drive=2, expert_bytes=MB, rates=RATES) == pytest.approx(0.2 + 0.01), (
        "the last one that is read is multiplied afterwards"
    )


def test_a_mean_of_outcomes_is_more_than_the_outcome_of_means() -> None:
    shares = Shares(0.0, 0.99, 0.01)
    times = layer_times(shares, 8, MB, RATES)
    of_means = max(8 * MB / RATES.ram, 8 * 0.01 * MB / RATES.drive)
    assert times.mean_s > 1.02 * of_means
    exact = sum(
        math.comb(8, n) * 0.01**n * 0.99 ** (8 - n) * outcome_s(0, 8 - n, n, MB, RATES) for n in range(9)
    )
    assert times.mean_s == pytest.approx(exact)


def test_shares_that_are_no_distribution_are_refused() -> None:
    with pytest.raises(ValueError, match="no distribution"):
        Shares(0.5, 0.6, 0.1)


@pytest.mark.parametrize("curve", [nominal, pessimistic, even])
def test_a_hit_curve_rises_from_none_to_all(curve: object) -> None:
    assert callable(curve)
    shares = [step / 100 for step in range(101)]
    hits = [curve(share) for share in shares]
    assert hits == sorted(hits)
    assert (hits[0], hits[-1]) == (0.0, 1.0)
    assert all(hit >= share - 1e-9 for hit, share in zip(hits, shares, strict=True)), "no worse than keeping any"


def test_curves_go_through_what_is_known() -> None:
    assert pessimistic(0.20) == pytest.approx(0.53)
    assert nominal(0.25) > pessimistic(0.25)
