"""Layers on cards: in order, in one piece on each card, balanced, and never more than fits."""

from itertools import pairwise

import pytest

from offload.layer_ranges import divide_layers

GB = 10**9
LAYERS = [GB // 10] * 61 + [GB]  # the head is the last part


def held(ranges: list[range]) -> list[float]:
    return [sum(LAYERS[part] for part in one) / GB for one in ranges]


@pytest.mark.parametrize("cards", [[22], [22] * 4, [22, 22, 10], [22] * 16, [22, 4], [1, 22]])
def test_all_layers_are_on_cards_where_these_have_room(cards: list[int]) -> None:
    ranges = divide_layers(LAYERS, [size * GB for size in cards])
    assert [part for one in ranges for part in one] == list(range(62))
    assert all(before.stop == after.start for before, after in pairwise(ranges))
    assert all(taken <= size for taken, size in zip(held(ranges), cards, strict=True))


@pytest.mark.parametrize("count", [1, 2, 4, 7, 10, 16, 61])
def test_cards_of_one_size_get_as_many_layers(count: int) -> None:
    ranges = divide_layers(LAYERS, [22 * GB] * count)
    layers = [len(range(one.start, min(one.stop, 61))) for one in ranges]
    assert sum(layers) == 61
    assert max(layers) - min(layers) <= 1


def test_cards_get_layers_in_proportion_to_what_is_left_of_them() -> None:
    ranges = divide_layers(LAYERS, [20 * GB, 10 * GB, 11 * GB])
    assert [len(one) for one in ranges] == [31, 15, 16]  # the last is the head


def test_a_last_card_without_room_for_the_head_leaves_the_others_even() -> None:
    ranges = divide_layers(LAYERS, [22 * GB, 22 * GB, GB // 2])
    assert [part for one in ranges for part in one] == list(range(62))
    assert [len(one) for one in ranges] == [31, 31, 0]  # 31 layers, 30 and the head


def test_more_cards_than_layers() -> None:
    ranges = divide_layers([GB, GB, GB], [22 * GB] * 5)
    assert [part for one in ranges for part in one] == [0, 1, 2]
    assert max(map(len, ranges)) == 1


def test_what_does_not_fit_stays_behind() -> None:
    ranges = divide_layers(LAYERS, [GB, 2 * GB])
    assert held(ranges) == [1.0, 2.0]
    assert ranges[-1].stop == 30


def test_a_small_last_card_does_not_send_layers_to_ram() -> None:
    assert divide_layers(LAYERS, [22 * GB, 22 * GB, GB])[-1].stop == 62


def test_without_cards_there_is_nothing_to_divide() -> None:
    assert divide_layers(LAYERS, []) == []
