"""Other ways to choose which experts stay, for comparison only: how many of a sequence of uses they find.

Each takes the uses of one recorded answer in order, and how many experts fit, and returns the number of hits.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Sequence

from offload.slots import ExpertKey
from offload.trace import RoutingTrace

_NEVER = 1 << 60


def uses(trace: RoutingTrace) -> list[ExpertKey]:
    """Every use of an expert, in the order of time."""
    return [
        (layer, expert)
        for token in trace.tokens
        for layer, experts in enumerate(token)
        for expert in experts
    ]


def least_recently_used(sequence: Sequence[ExpertKey], room: int) -> int:
    """What was not used for longest goes."""
    kept: OrderedDict[ExpertKey, None] = OrderedDict()
    hits = 0
    for key in sequence:
        if key in kept:
            hits += 1
            kept.move_to_end(key)
            continue
        kept[key] = None
        if len(kept) > room:
            kept.popitem(last=False)
    return hits


def first_in_first_out(sequence: Sequence[ExpertKey], room: int) -> int:
    """What came first goes, used or not."""
    kept: OrderedDict[ExpertKey, None] = OrderedDict()
    hits = 0
    for key in sequence:
        if key in kept:
            hits += 1
            continue
        kept[key] = None
        if len(kept) > room:
            kept.popitem(last=False)
    return hits


def pinned(sequence: Sequence[ExpertKey], room: int, learned_from: Sequence[ExpertKey]) -> int:
    """What was used most in another sequence stays for ever."""
    kept = {key for key, _ in Counter(learned_from).most_common(room)}
    return sum(key in kept for key in sequence)


def belady(sequence: Sequence[ExpertKey], room: int) -> int:
    """The optimum of who knows the future: what is used again last goes, or is not kept at all."""
    following, last = [_NEVER] * len(sequence), dict[ExpertKey, int]()
    for index in range(len(sequence) - 1, -1, -1):
        following[index] = last.get(sequence[index], _NEVER)
        last[sequence[index]] = index
    kept: dict[ExpertKey, int] = {}
    heap: list[tuple[int, ExpertKey]] = []  # what is used again last comes first
    hits = 0
    for key, again in zip(sequence, following, strict=True):
        if key in kept:
            hits += 1
        elif len(kept) >= room and not _make_room(kept, heap, again):
            continue
        kept[key] = again
        heapq.heappush(heap, (-again, key))
    return hits


def _make_room(kept: dict[ExpertKey, int], heap: list[tuple[int, ExpertKey]], again: int) -> bool:
    """Drop the one that is used again last, unless the newcomer is used again even later."""
    while True:
        negative, key = heap[0]
        if kept.get(key) != -negative:  # it was used since, and lies in the heap again
            heapq.heappop(heap)
            continue
        if -negative <= again:
            return False
        heapq.heappop(heap)
        del kept[key]
        return True
