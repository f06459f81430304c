"""How much each expert is used of late: counts that decay with every step, kept so that a step costs nothing.

Instead of making all old counts smaller, a new one is made larger: after t steps a use counts decay ** -t. Which of two
experts stands higher does not change while neither is used, so ranks may lie in a heap.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# Beyond, a use would soon be too large for a float; all counts are then made smaller at once.
_LARGEST_UNIT = 1e200


class DecayedScores(Generic[Key]):
    """Decayed use counts by key. A use now counts 1, one that is n steps old decay ** n. 0 < decay < 1."""

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"a decay of {decay} is not between 0 and 1")
        self.decay = decay
        self._ranks: dict[Key, float] = {}
        self._later: list[Iterable[Key]] = []  # used in the current step, not yet counted
        self._unit = 1.0  # what a use counts now
        self.scalings = 0  # how often all ranks were made smaller: ranks from before must be asked for again

    def use(self, key: Key, count: float = 1.0) -> None:
        """Count `count` uses in the current step."""
        self._ranks[key] = self._ranks.get(key, 0.0) + count * self._unit

    def use_later(self, keys: Iterable[Key]) -> None:
        """Count one use of each, when somebody asks: between two layers, whose weights leave nothing else in the
        processor's caches, counting takes six times as long as all at once."""
        self._later.append(keys)

    def advance(self, steps: int = 1) -> None:
        """Let steps pass. Costs nothing but, every few thousand, one look at all keys."""
        self._count()
        self._unit /= self.decay**steps
        if self._unit > _LARGEST_UNIT:
            self._ranks = {key: rank / self._unit for key, rank in self._ranks.items()}
            self._unit = 1.0
            self.scalings += 1

    def score(self, key: Key) -> float:
        """The decayed count as of now."""
        self._count()
        return self._ranks.get(key, 0.0) / self._unit

    def scores(self, keys: Iterable[Key]) -> tuple[float, ...]:
        """The decayed count of each key as of now."""
        self._count()
        ranks, unit = self._ranks, self._unit
        return tuple([ranks.get(key, 0.0) / unit for key in keys])

    def rank(self, key: Key) -> float:
        """A number that orders keys as their scores do and changes only with a use, or with `scalings`."""
        if self._later:
            self._count()
        return self._ranks.get(key, 0.0)

    def _count(self) -> None:
        for keys in self._later:
            for key in keys:
                self._ranks[key] = self._ranks.get(key, 0.0) + self._unit
        self._later.clear()


def decay_for(held_experts: float, used_per_step: float) -> float:
    """How fast uses should be forgotten where `held_experts` fit and a step uses `used_per_step` of them.

    A place that holds the experts of a few steps does best to remember about as few; one that holds many gains by
    remembering longer than it holds. Found on recorded routings, where any one decay for all sizes loses to plain
    LRU at some of them.
    """
    steps_held = max(held_experts / used_per_step, 1e-9)
    forgotten = min(_FORGOTTEN / steps_held, _FORGOTTEN * _FEW_STEPS / steps_held**2)
    return min(_SLOWEST, max(_FASTEST, 1 - forgotten))


_FASTEST, _SLOWEST, _FORGOTTEN, _FEW_STEPS = 0.9, 0.99, 0.4, 8


def decayed_counts(token_experts: Sequence[Sequence[int]], decay: float) -> dict[int, float]:
    """What the uses of a prompt's tokens count at its end, by expert: `token_experts` in the order of the tokens."""
    counts: dict[int, float] = {}
    unit = 1.0
    for experts in reversed(token_experts):
        for expert in experts:
            counts[expert] = counts.get(expert, 0.0) + unit
        unit *= decay
    return counts
