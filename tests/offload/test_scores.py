"""Use counts that decay."""

import pytest

from offload.scores import DecayedScores, decay_for


def test_a_use_counts_less_with_every_step():
    scores: DecayedScores[str] = DecayedScores(0.5)
    scores.use("a")
    scores.advance()
    scores.use("a")
    scores.use("b", 3)
    assert scores.score("a") == 1.5 and scores.score("b") == 3 and scores.score("never") == 0
    scores.advance(2)
    assert scores.score("a") == pytest.approx(0.375) and scores.score("b") == pytest.approx(0.75)


def test_ranks_order_as_scores_do_and_stay_while_nothing_is_used():
    scores: DecayedScores[str] = DecayedScores(0.9)
    scores.use("old", 2)
    scores.advance(10)
    scores.use("new")
    before = scores.rank("old"), scores.rank("new")
    scores.advance(50)
    assert (scores.rank("old"), scores.rank("new")) == before and before[0] < before[1]


def test_scores_survive_so_many_steps_that_plain_powers_would_overflow():
    scores: DecayedScores[int] = DecayedScores(0.9)
    for step in range(10_000):
        scores.use(step % 3)
        scores.advance()
    assert scores.scalings > 0
    scores.use(7)
    for key in range(3):
        # a use every third step: 0.9**n + 0.9**(n + 3) + ...
        steps_ago = 10_000 - max(step for step in range(9_990, 10_000) if step % 3 == key)
        assert scores.score(key) == pytest.approx(0.9**steps_ago / (1 - 0.9**3), rel=1e-9)
    assert scores.score(7) == 1


def test_a_decay_that_keeps_everything_is_refused():
    with pytest.raises(ValueError, match="1"):
        DecayedScores(1)


def test_larger_places_remember_longer():
    decays = [decay_for(held, 208) for held in (1, 208, 832, 1664, 3328, 100_000)]
    assert decays == sorted(decays) and decays[0] == 0.9 and decays[-1] == 0.99
