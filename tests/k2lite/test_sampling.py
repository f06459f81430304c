"""Sampling: each limit keeps what its definition says, and the draws have the right frequencies."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from k2lite.events import Sampling
from k2lite.sampling import sample
from quant.errors import EngineError, RequestError

PROBABILITIES = [0.05, 0.4, 0.1, 0.25, 0.2]
LOGITS = torch.tensor(PROBABILITIES).log()


def draws(logits: Tensor, sampling: Sampling, count: int = 2000, seed: int = 0) -> Counter[int]:
    generator = torch.Generator().manual_seed(seed)
    return Counter(sample(logits, sampling, (), generator) for _ in range(count))


def plain(**changes: float) -> Sampling:
    return Sampling(**{"temperature": 1.0, **changes})


def assert_frequencies(found: Counter[int], expected: dict[int, float]) -> None:
    """Within four standard deviations of a binomial draw."""
    count = found.total()
    assert set(found) == set(expected)
    for token, probability in expected.items():
        spread = 4 * math.sqrt(probability * (1 - probability) / count) + 1e-9
        assert abs(found[token] / count - probability) <= spread


def test_without_limits_tokens_come_as_often_as_the_model_says() -> None:
    assert_frequencies(draws(LOGITS, plain()), dict(enumerate(PROBABILITIES)))


def test_temperature_sharpens() -> None:
    squares = [p**2 for p in PROBABILITIES]
    assert_frequencies(draws(LOGITS, plain(temperature=0.5)), {i: s / sum(squares) for i, s in enumerate(squares)})


def test_temperature_0_takes_the_most_probable() -> None:
    assert draws(LOGITS, plain(temperature=0), 20) == {1: 20}


@pytest.mark.parametrize("temperature", [1e-30, 1e-310])
def test_the_smallest_temperatures_take_the_most_probable(temperature: float) -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert sample(logits, Sampling(temperature=temperature), [], torch.Generator().manual_seed(0)) == 1


def test_top_k_keeps_k_tokens() -> None:
    assert_frequencies(draws(LOGITS, plain(top_k=2)), {1: 0.4 / 0.65, 3: 0.25 / 0.65})


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, {1}), (0.41, {1, 3}), (0.84, {1, 3, 4}), (0.9, {1, 3, 4, 2})])
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    total = sum(PROBABILITIES[i] for i in kept)
    assert_frequencies(draws(LOGITS, plain(top_p=top_p)), {i: PROBABILITIES[i] / total for i in kept})


def test_top_p_counts_within_what_top_k_left() -> None:
    # Of the two most probable the first has 0.4 / 0.65 = 0.615.
    assert set(draws(LOGITS, plain(top_k=2, top_p=0.6))) == {1}
    assert set(draws(LOGITS, plain(top_k=2, top_p=0.62))) == {1, 3}


def test_min_p_is_relative_to_the_most_probable() -> None:
    assert set(draws(LOGITS, plain(min_p=0.45))) == {1, 3, 4}


def test_a_flat_distribution_over_a_large_vocabulary_is_cut_at_p_too() -> None:
    flat = torch.zeros(20_000)
    generator = torch.Generator().manual_seed(1)
    found = {sample(flat, plain(top_p=0.5), (), generator) for _ in range(300)}
    # Ties are kept in the order of topk; half of the tokens remain, and far more than the first look takes.
    assert len(found) > 280
    everything = {sample(flat, plain(min_p=0.5), (), generator) for _ in range(300)}
    assert len(everything) > 280


def test_one_number_is_drawn_per_token_whatever_the_limits() -> None:
    states = []
    for sampling in (plain(), plain(top_k=3), plain(top_p=0.5), plain(min_p=0.1)):
        generator = torch.Generator().manual_seed(3)
        sample(LOGITS, sampling, (), generator)
        states.append(generator.get_state().tolist())
    assert all(state == states[0] for state in states)


def test_the_penalty_moves_repeated_tokens_down_on_both_sides_of_zero() -> None:
    generator = torch.Generator()
    greedy = Sampling(temperature=0, repeat_penalty=2.0)
    assert sample(torch.tensor([3.0, 2.0]), greedy, (0,), generator) == 1
    assert sample(torch.tensor([-1.0, -1.5]), greedy, (0,), generator) == 1
    assert sample(torch.tensor([3.0, 1.0]), greedy, (0,), generator) == 0
    assert sample(torch.tensor([3.0, 2.0]), greedy, (), generator) == 0


def test_the_penalty_leaves_the_models_logits_alone() -> None:
    logits = torch.tensor([3.0, 2.0])
    sample(logits, Sampling(temperature=0, repeat_penalty=2.0), (0,), torch.Generator())
    assert logits.tolist() == [3.0, 2.0]


def test_a_forbidden_token_is_never_drawn() -> None:
    assert set(draws(torch.tensor([-math.inf, 0.0, -math.inf]), plain())) == {1}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_are_an_error_and_no_token(bad: float) -> None:
    with pytest.raises(EngineError, match="NaN or inf"):
        draws(torch.tensor([0.0, bad]), plain(), 1)


@pytest.mark.parametrize(
    "field", [{"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"min_p": 1}, {"repeat_penalty": 0}]
)
def test_values_out_of_range_are_refused_by_name(field: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(field))} is"):
        Sampling(**field)
