"""The caches that ours is compared with, on sequences whose hits can be counted by hand, and the targets."""

import random
from itertools import product
from pathlib import Path

import pytest

from benchmarks.baseline_caches import belady, first_in_first_out, least_recently_used, pinned
from benchmarks.policies import SHARES, measured, missed_targets
from offload.slots import ExpertKey


def keys(text: str) -> list[ExpertKey]:
    return [(0, ord(letter)) for letter in text]


def test_hits_are_counted_by_hand() -> None:
    assert least_recently_used(keys("abacab"), 2) == 2
    assert first_in_first_out(keys("abacab"), 2) == 1
    assert belady(keys("abacab"), 2) == 3
    assert pinned(keys("abacab"), 1, keys("aab")) == 3


def most_hits(sequence: list[ExpertKey], room: int) -> int:
    """The optimum by trying everything: which of the kept ones goes, at every miss, or none."""
    states: dict[frozenset[ExpertKey], int] = {frozenset(): 0}
    for key in sequence:
        after: dict[frozenset[ExpertKey], int] = {}
        for kept, hits in states.items():
            choices = [(kept, hits + 1)] if key in kept else [(kept, hits), *((kept - {v} | {key}, hits) for v in kept)]
            if key not in kept and len(kept) < room:
                choices.append((kept | {key}, hits))
            for state, count in choices:
                after[state] = max(after.get(state, -1), count)
        states = after
    return max(states.values())


@pytest.mark.parametrize(("seed", "room"), list(product(range(5), (1, 2, 3))))
def test_the_optimum_is_the_optimum(seed: int, room: int) -> None:
    draw = random.Random(seed)
    sequence = keys("".join(draw.choice("abcdef") for _ in range(24)))
    assert belady(sequence, room) == most_hits(sequence, room)


@pytest.mark.slow
def test_all_targets_are_met(shared_data: Path) -> None:
    for path in sorted((shared_data / "traces").glob("*.jsonl")):
        result = measured(path)
        assert len(result["ram"]) == len(SHARES)
        assert list(missed_targets(result)) == []


def test_a_missed_target_is_told() -> None:
    row = {"share": 0.25, "ours": 0.7, "lru": 0.71, "belady": 0.85}
    card = {"share": 0.1, "budget": 0.5, "promotions": 2.0}
    result = {"trace": "kimi-linear-48b", "ram": [row], "cards": [card]}
    assert [text.split(":")[1][:8] for text in missed_targets(result)] == [" 0.7000 ", " 0.824 o", " 2.00 pr"]
