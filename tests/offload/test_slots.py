"""Cutting budgets into slots, and who leaves a table of them first."""

from hypothesis import given
from hypothesis import strategies as st

from offload.slots import SizeClass, SlotTable, slots_for

CLASSES = st.lists(st.builds(SizeClass, st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=4)


@given(CLASSES, st.integers(0, 2000))
def test_budgets_are_used_to_the_last_slot(classes: list[SizeClass], budget: int) -> None:
    slots = slots_for(budget, classes)
    used = sum(c.slot_bytes * n for c, n in zip(classes, slots, strict=True))
    assert used <= budget
    if budget < sum(c.slot_bytes for c in classes):
        assert not any(slots)
        return
    for c, n in zip(classes, slots, strict=True):
        assert 1 <= n <= c.count
        assert n == c.count or used + c.slot_bytes > budget


def test_classes_share_a_budget_evenly():
    assert slots_for(500, [SizeClass(10, 50), SizeClass(5, 100)]) == (25, 50)


def table(slots: int, ranks: dict[tuple[int, int], float]) -> SlotTable:
    return SlotTable([SizeClass(8, 10)], [slots], lambda key: ranks.get(key, 0.0))


def test_the_lowest_that_is_not_pinned_leaves_first():
    ranks = {(0, 0): 3.0, (0, 1): 1.0, (0, 2): 2.0}
    t = table(3, ranks)
    places = [t.put((0, i), 0) for i in range(3)]
    assert len({place.index for place in places if place}) == 3 and t.put((0, 3), 0) is None
    assert t.lowest(0) == (0, 1)
    ranks[0, 1] = 9.0  # used since
    assert t.lowest(0) == (0, 2)
    t.pin((0, 2))
    t.pin((0, 2))
    assert t.lowest(0) == (0, 0)
    t.unpin((0, 2))
    assert t.lowest(0) == (0, 0)
    t.unpin((0, 2))
    assert t.lowest(0) == (0, 2)
    for key in list(t):
        t.pin(key)
    assert t.lowest(0) is None


def test_slots_are_used_again_and_bytes_are_counted():
    t = table(2, {})
    t.put((0, 0), 0)
    t.put((0, 1), 0)
    freed = t.slot((0, 0))
    assert t.used_bytes == 16 and t.free_slots(0) == 0
    t.remove((0, 0))
    assert t.used_bytes == 8 and t.free_slots(0) == 1 and (0, 0) not in t
    assert t.put((0, 5), 0) == freed and t.capacity_bytes == 16


def test_coming_and_going_does_not_make_the_table_grow():
    ranks: dict[tuple[int, int], float] = {}
    t = table(3, ranks)
    for i in range(3):
        t.put((0, i), 0)
        ranks[0, i] = 1.0
    for _ in range(1000):
        t.remove((0, 1))
        t.put((0, 1), 0)
    assert len(t._heaps[0]) == 3
