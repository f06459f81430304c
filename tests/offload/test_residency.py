"""Who is where: budgets, pins, who leaves, and moves between RAM and cards."""

import random

import pytest

from offload.expert_layout import ExpertLayout
from offload.moves import Demotion, PlannedMove, Promotion
from offload.residency import DRIVE, RAM, Residency
from offload.scores import decayed_counts

LAYOUT = ExpertLayout({1: 8, 2: 8}, {1: 100, 2: 150}, used_per_token=2)


def bring(r: Residency, key: tuple[int, int]) -> None:
    assert r.reserve(key) is not None
    r.arrived(key)


def test_what_was_read_is_in_ram_until_its_slot_is_wanted():
    r = Residency(LAYOUT, ram_bytes=500)  # two slots of each size
    assert r.place((1, 0)) == DRIVE
    assert r.reserve((1, 0)) is not None
    assert r.place((1, 0)) == DRIVE and r.is_arriving((1, 0))
    r.arrived((1, 0))
    assert r.place((1, 0)) == RAM and not r.is_arriving((1, 0))
    r.use((1, 0), 2)
    bring(r, (1, 1))
    r.use((1, 1))
    bring(r, (2, 7))  # another size: nobody has to leave
    assert r.evictions == 0
    bring(r, (1, 2))
    assert (r.place((1, 1)), r.place((1, 0)), r.evictions) == (DRIVE, RAM, 1)
    assert r.ram.used_bytes == 350 and r.ram.capacity_bytes == 500


def test_a_newcomer_that_is_used_no_more_leaves_before_who_is_used_often():
    r = Residency(LAYOUT, ram_bytes=500)
    bring(r, (1, 0))
    r.use((1, 0), 5)
    for newcomer in range(1, 8):
        bring(r, (1, newcomer))
        r.use((1, newcomer))
        r.advance()
        assert r.place((1, 0)) == RAM


def test_pinned_experts_stay_and_when_all_are_there_is_no_room():
    r = Residency(LAYOUT, ram_bytes=250)
    bring(r, (1, 0))
    r.pin((1, 0))
    assert r.reserve((1, 1)) is None and r.place((1, 0)) == RAM
    r.unpin((1, 0))
    assert r.reserve((1, 1)) is not None
    assert r.reserve((1, 2)) is None  # what arrives is pinned
    r.failed((1, 1))
    assert r.place((1, 1)) == DRIVE and r.ram.used_bytes == 0 and r.reserve((1, 2)) is not None


def test_a_look_ahead_takes_nobody_away_who_is_used_more_than_allowed():
    r = Residency(LAYOUT, ram_bytes=250)
    bring(r, (1, 0))
    r.use((1, 0), 2)
    assert r.reserve((1, 1), only_over=1.0) is None
    assert r.reserve((1, 1), only_over=2.0) is not None


def test_a_budget_without_a_slot_of_each_size_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"249 .*250 "):
        Residency(LAYOUT, ram_bytes=249)


def test_mapped_ram_holds_everything_and_a_promotion_leaves_its_copy():
    r = Residency(LAYOUT, ram_bytes=None, card_bytes=[250])
    assert not r.exclusive and {r.place((2, e)) for e in range(8)} == {RAM}
    r.use((1, 3))
    move = r.promotion([0], [(1, 3)])
    assert isinstance(move, Promotion) and r.place((1, 3)) == RAM
    assert r.can_complete(move)
    r.copied(move)
    assert r.place((1, 3)) == 0 and (1, 3) in r.ram and r.promotions == 1
    r.use((1, 4), 3)
    second = r.promotion([0], [(1, 4), (1, 3)])
    assert isinstance(second, Promotion) and r.place((1, 3)) == RAM  # leaving a card costs nothing


def test_exclusive_places_add_up():
    r = Residency(LAYOUT, ram_bytes=500, card_bytes=[250])
    bring(r, (1, 0))
    bring(r, (1, 1))
    r.use((1, 0))
    move = r.promotion([0], [(1, 0)])
    assert isinstance(move, Promotion)
    r.pin((1, 0))
    assert not r.can_complete(move)  # somebody multiplies with the copy in RAM
    r.unpin((1, 0))
    r.copied(move)
    assert r.place((1, 0)) == 0 and (1, 0) not in r.ram and r.place((1, 1)) == RAM
    bring(r, (1, 2))
    assert r.evictions == 0 and {r.place((1, e)) for e in range(3)} == {0, RAM}


def test_who_must_leave_a_card_goes_back_to_ram_when_it_stands_higher_than_somebody_there():
    r = Residency(LAYOUT, ram_bytes=500, card_bytes=[250])
    bring(r, (1, 0))
    r.use((1, 0), 4)
    first = r.promotion([0], [(1, 0)])
    assert first is not None
    r.copied(first)
    bring(r, (1, 1))
    bring(r, (1, 2))
    r.use((1, 1), 10)
    r.use((1, 2), 1)
    back = r.promotion([0], [(1, 1)])
    assert isinstance(back, Demotion) and back.key == (1, 0)
    assert r.place((1, 0)) == 0 and r.place((1, 2)) == DRIVE  # still used from the card; the lowest in RAM made room
    r.copied(back)
    assert r.place((1, 0)) == RAM
    onward = r.promotion([0], [(1, 1)])
    assert isinstance(onward, Promotion) and onward.key == (1, 1)
    r.copied(onward)
    assert (r.place((1, 0)), r.place((1, 1))) == (RAM, 0)


def test_no_promotion_without_a_clear_gain():
    r = Residency(LAYOUT, ram_bytes=None, card_bytes=[250])
    r.use((1, 0), 10)
    move = r.promotion([0], [(1, 0)])
    assert move is not None
    r.copied(move)
    r.use((1, 1), 11)
    assert r.promotion([0], [(1, 1)]) is None
    assert r.promotion([0], [(1, 5), (1, 0)]) is None or r.scores.score((1, 5)) == 0


def test_abandoned_moves_leave_everything_as_it_was():
    r = Residency(LAYOUT, ram_bytes=500, card_bytes=[250])
    bring(r, (1, 0))
    r.use((1, 0))
    for _ in range(2):
        move = r.promotion([0], [(1, 0)])
        assert isinstance(move, Promotion)
        r.abandoned(move)
        assert r.place((1, 0)) == RAM and r.cards[0].used_bytes == 0


def test_a_prompt_counts_as_if_its_tokens_had_come_one_by_one():
    tokens = [[0, 1], [1, 2], [0, 2]]
    one_by_one = Residency(LAYOUT, ram_bytes=250)
    for experts in tokens:
        one_by_one.advance()
        for expert in experts:
            one_by_one.use((1, expert))
    at_once = Residency(LAYOUT, ram_bytes=250)
    at_once.advance(len(tokens))
    for expert, count in decayed_counts(tokens, at_once.scores.decay).items():
        at_once.use((1, expert), count)
    for expert in range(4):
        assert at_once.scores.score((1, expert)) == pytest.approx(one_by_one.scores.score((1, expert)))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_budgets_hold_and_nobody_is_in_two_places(seed: int) -> None:
    rng = random.Random(seed)
    r = Residency(
        LAYOUT, rng.choice([250, 400, 800, 1500]), [rng.choice([0, 250, 700]) for _ in range(rng.randrange(3))]
    )
    keys = [(layer, expert) for layer in (1, 2) for expert in range(8)]
    moves: list[PlannedMove] = []
    pinned: list[tuple[int, int]] = []
    for _ in range(600):
        key = rng.choice(keys)
        action = rng.randrange(7)
        if action <= 1:
            r.use(key)
            if r.place(key) == DRIVE and not r.is_arriving(key) and r.reserve(key) is not None:
                (r.arrived if rng.random() < 0.9 else r.failed)(key)
        elif action == 2 and len(pinned) < 2 and r.place(key) != DRIVE:
            r.pin(key)
            pinned.append(key)
        elif action == 3 and pinned:
            r.unpin(pinned.pop(rng.randrange(len(pinned))))
        elif action == 4 and r.cards:
            move = r.promotion(rng.sample(range(len(r.cards)), len(r.cards)), rng.sample(keys, 4))
            moves += [] if move is None else [move]
        elif action == 5 and moves and r.can_complete(moves[0]):
            (r.copied if rng.random() < 0.8 else r.abandoned)(moves.pop(0))
        else:
            r.advance()
        for table in (r.ram, *r.cards):
            held = [table.slot(k) for k in table]
            assert len(set(held)) == len(held) and table.used_bytes <= table.capacity_bytes
        under_way = {move.key for move in moves}
        for k in keys:
            holders = [t for t in (r.ram, *r.cards) if k in t]
            assert len(holders) <= 1 or not r.exclusive or k in under_way
        assert all(r.place(k) != DRIVE for k in pinned)
    for k in pinned:
        r.unpin(k)
    for move in moves:
        r.copied(move)
    assert not any(t.is_pinned(k) for t in (r.ram, *r.cards) for k in keys)


@pytest.mark.parametrize("ram_bytes", [None, 300])
def test_a_card_lends_the_slots_of_its_coldest_experts(ram_bytes: int | None) -> None:
    r = Residency(ExpertLayout({1: 8}, {1: 100}, used_per_token=2), ram_bytes, [400])
    keys = [(1, expert) for expert in range(4)]
    for rank, key in enumerate(keys):
        r.use(key, 10.0 - rank)
        if ram_bytes is not None:
            bring(r, key)
        move = r.promotion([0], [key])
        assert isinstance(move, Promotion)
        r.copied(move)
    r.pin(keys[3])  # somebody uses the coldest
    lent = r.lend_card(0, share=0.5, most=32)
    left = RAM if ram_bytes is None else DRIVE
    assert len(set(lent)) == 2 and [r.place(key) for key in keys] == [0, left, left, 0]
    more = r.lend_card(0, share=0.5, most=1)
    assert len(more) == 1 and r.place(keys[0]) == left
    assert r.lend_card(0, share=0.5, most=1) == []  # the last one is in use
    assert r.cards[0].free_slots(0) == 0
    r.give_back_card(0, [*lent, *more])
    assert r.cards[0].free_slots(0) == 3
    r.unpin(keys[3])
