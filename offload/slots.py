"""A memory cut into slots of a few sizes: which expert lies in which slot, and which one goes first.

No bytes are here, only numbers: the same tables serve an arena in RAM, a card, and a simulation.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

ExpertKey = tuple[int, int]  # layer, expert


@dataclass(frozen=True)
class SizeClass:
    """Experts that take equally many bytes: `count` of them, 1 or more, in slots of `slot_bytes`."""

    slot_bytes: int
    count: int


@dataclass(frozen=True)
class Slot:
    """A place for one expert: the `index`-th of the slots of a size class."""

    size_class: int
    index: int


def slots_for(budget_bytes: int, classes: Sequence[SizeClass]) -> tuple[int, ...]:
    """Slots of each class that fit into a budget: the same share of every class, then whatever else still fits.

    No class gets more slots than it has experts. What is left over is less than any slot that could still be of use.
    Every class gets at least one slot, or all get none: a model is of no use when some of its experts have no place.
    """
    if budget_bytes < sum(c.slot_bytes for c in classes):
        return (0,) * len(classes)
    share = budget_bytes / sum(c.slot_bytes * c.count for c in classes)
    slots = [min(c.count, max(1, int(c.count * share))) for c in classes]
    _shrink_to(budget_bytes, classes, slots)
    free = budget_bytes - _bytes(classes, slots)
    while True:
        # The class that is furthest behind its share, of those that fit.
        fitting = [i for i, c in enumerate(classes) if slots[i] < c.count and c.slot_bytes <= free]
        if not fitting:
            return tuple(slots)
        chosen = min(fitting, key=lambda i: slots[i] / classes[i].count)
        slots[chosen] += 1
        free -= classes[chosen].slot_bytes


def _shrink_to(budget_bytes: int, classes: Sequence[SizeClass], slots: list[int]) -> None:
    """Take slots away from where most bytes are, until all fit: some class got its one slot above its share."""
    while _bytes(classes, slots) > budget_bytes:
        fullest = max((i for i in range(len(slots)) if slots[i] > 1), key=lambda i: slots[i] * classes[i].slot_bytes)
        slots[fullest] -= 1


def _bytes(classes: Sequence[SizeClass], slots: Sequence[int]) -> int:
    return sum(c.slot_bytes * n for c, n in zip(classes, slots, strict=True))


class SlotTable:
    """Who lies in which slot of one memory. `rank` orders experts: the lowest that is not pinned goes first.

    Asking for a victim costs O(log n), amortised; everything else O(1). Owned by one thread.
    """

    def __init__(self, classes: Sequence[SizeClass], slots: Sequence[int], rank: Callable[[ExpertKey], float]) -> None:
        self.classes, self.slots = tuple(classes), tuple(slots)
        self._rank = rank
        self._free = [[Slot(c, i) for i in reversed(range(n))] for c, n in enumerate(slots)]
        self._held: dict[ExpertKey, Slot] = {}
        self._pins: dict[ExpertKey, int] = {}
        # Each holder once, under a rank that it had at some time: ranks only rise, so a low one is looked at again.
        # Who left stays until it comes up.
        self._heaps: list[list[tuple[float, ExpertKey]]] = [[] for _ in slots]
        self._listed: set[ExpertKey] = set()
        self.used_bytes = 0

    def __contains__(self, key: ExpertKey) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[ExpertKey]:
        return iter(self._held)

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all slots."""
        return _bytes(self.classes, self.slots)

    def slot(self, key: ExpertKey) -> Slot:
        """Where an expert lies. Raises KeyError when it is not here."""
        return self._held[key]

    def free_slots(self, size_class: int) -> int:
        """Empty slots of a class."""
        return len(self._free[size_class])

    def put(self, key: ExpertKey, size_class: int) -> Slot | None:
        """Give `key` an empty slot. None when the class has none."""
        if not self._free[size_class]:
            return None
        slot = self._held[key] = self._free[size_class].pop()
        if key not in self._listed:
            self._listed.add(key)
            heapq.heappush(self._heaps[size_class], (self._rank(key), key))
        self.used_bytes += self.classes[size_class].slot_bytes
        return slot

    def take(self, size_class: int) -> Slot | None:
        """Take an empty slot away, until `give_back`. None when the class has none."""
        return self._free[size_class].pop() if self._free[size_class] else None

    def give_back(self, slot: Slot) -> None:
        """Undo a `take`."""
        self._free[slot.size_class].append(slot)

    def remove(self, key: ExpertKey) -> None:
        """Forget an expert that is not pinned; its slot is empty."""
        assert key not in self._pins, f"{key} is in use"
        slot = self._held.pop(key)
        self._free[slot.size_class].append(slot)
        self.used_bytes -= self.classes[slot.size_class].slot_bytes

    def pin(self, key: ExpertKey) -> None:
        """Keep an expert where it is, until `unpin` was called as often."""
        self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: ExpertKey) -> None:
        """Undo one `pin`."""
        if self._pins[key] == 1:
            del self._pins[key]
        else:
            self._pins[key] -= 1

    def pins(self, key: ExpertKey) -> int:
        """How many pins an expert has."""
        return self._pins.get(key, 0)

    def is_pinned(self, key: ExpertKey) -> bool:
        """Whether an expert must stay where it is."""
        return key in self._pins

    def lowest(self, size_class: int) -> ExpertKey | None:
        """The holder of the class with the lowest rank that is not pinned, or None."""
        heap, aside = self._heaps[size_class], []
        found = None
        while heap and found is None:
            rank, key = heap[0]
            if key not in self._held:
                heapq.heappop(heap)
                self._listed.remove(key)
            elif (now := self._rank(key)) != rank:
                heapq.heapreplace(heap, (now, key))
            elif key in self._pins:
                aside.append(heapq.heappop(heap))
            else:
                found = key
        for entry in aside:
            heapq.heappush(heap, entry)
        return found

    def rank_again(self) -> None:
        """All ranks were made smaller: order the holders anew."""
        for heap in self._heaps:
            heap[:] = [(self._rank(key), key) for _, key in heap]
            heapq.heapify(heap)


def classes_of(expert_bytes: Mapping[int, int], counts: Mapping[int, int]) -> tuple[list[SizeClass], dict[int, int]]:
    """Size classes of a model, and each layer's: layer l has `counts[l]` experts of `expert_bytes[l]` bytes."""
    sizes = sorted(set(expert_bytes.values()))
    number = {size: index for index, size in enumerate(sizes)}
    totals = [0] * len(sizes)
    for layer, size in expert_bytes.items():
        totals[number[size]] += counts[layer]
    classes = [SizeClass(size, total) for size, total in zip(sizes, totals, strict=True)]
    return classes, {layer: number[size] for layer, size in expert_bytes.items()}
