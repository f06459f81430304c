"""Who is where: a drive that holds every expert, RAM and cards that hold some, and who comes and goes.

Pure bookkeeping, without bytes and without a clock: the runtime and the simulator use the very same object. One thread
owns it. The rules:

- An expert that was read stays until its slot is wanted by another. Then the one with the lowest decayed use count
  goes, whatever its layer, and that may well be the newcomer: what was used once and not since is first to leave.
- Nothing that is pinned moves. Who uses an expert, or brings it, holds a pin.
- When RAM cannot hold all experts, an expert is in RAM or on one card, never on two (`exclusive`). When it can, RAM
  keeps its copy, and leaving a card costs nothing.
- Only an expert in RAM is promoted to a card, one that stands clearly higher than who would have to leave.
- Weights are read-only: leaving is forgetting. A card's expert that still stands higher than the lowest in RAM goes
  back there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from offload.expert_layout import ExpertLayout
from offload.moves import Demotion, PlannedMove, Promotion
from offload.scores import DecayedScores, decay_for
from offload.slots import ExpertKey, Slot, SlotTable, classes_of, slots_for

# Where an expert is: on a card (its number), or one of these.
DRIVE = -2
RAM = -1

# A promotion must bring more than it costs: scores that differ by noise would swap experts for ever.
_CLEARLY_HIGHER = 1.25


class Residency:
    """The places of all experts under byte budgets for RAM and for each card.

    `ram_bytes` None means that RAM holds all experts where they lie (a mapped file): no slots, nobody ever leaves.
    `decay` None takes the one that fits the budgets. Raises ValueError when RAM's budget has no slot for some expert.
    """

    def __init__(
        self,
        layout: ExpertLayout,
        ram_bytes: int | None,
        card_bytes: Sequence[int] = (),
        decay: float | None = None,
    ) -> None:
        self.layout = layout
        classes, self._class_of_layer = classes_of(layout.slot_bytes, layout.counts)
        slots = tuple(c.count for c in classes) if ram_bytes is None else slots_for(ram_bytes, classes)
        if not all(slots):
            raise ValueError(f"{ram_bytes} bytes are no slot of each size: {layout.smallest_budget_bytes} are needed")
        card_slots = [slots_for(budget, classes) for budget in card_bytes]
        held = min(layout.total_experts, sum(slots) + sum(map(sum, card_slots)))
        used = layout.used_per_token * len(layout.counts)
        self.scores: DecayedScores[ExpertKey] = DecayedScores(decay_for(held, used) if decay is None else decay)
        self.ram = SlotTable(classes, slots, self.scores.rank)
        self.cards = tuple(SlotTable(classes, numbers, self.scores.rank) for numbers in card_slots)
        self.holds_all = all(n >= c.count for n, c in zip(slots, classes, strict=True))
        self.exclusive = not self.holds_all
        self._card_of: dict[ExpertKey, int] = {}
        self._leaving: set[ExpertKey] = set()  # on the way from a card to RAM: the card's copy still counts
        self._arriving: set[ExpertKey] = set()
        self._promoting: set[ExpertKey] = set()  # on the way from RAM to a card
        self._scalings = 0
        self._watchers: list[Callable[[ExpertKey, int | None], None]] = []
        self.evictions = self.promotions = self.demotions = 0
        if ram_bytes is None:
            for layer, count in layout.counts.items():
                for expert in range(count):
                    self.ram.put((layer, expert), self._class_of_layer[layer])

    def watch(self, moved: Callable[[ExpertKey, int | None], None]) -> None:
        """Have `moved` called with every expert whose `place` has become another, and the card that it left, if any."""
        self._watchers.append(moved)

    # What is where

    def place(self, key: ExpertKey) -> int:
        """Where an expert can be multiplied now: the number of a card, RAM, or DRIVE while it is not (all) there."""
        card = self._card_of.get(key)
        if card is not None:
            return card
        return RAM if key in self.ram and key not in self._arriving else DRIVE

    def placed(self) -> Iterator[tuple[ExpertKey, int]]:
        """All experts that are not on the drive only, and their `place`."""
        for key in self.ram:
            if key not in self._arriving and key not in self._card_of:
                yield key, RAM
        yield from self._card_of.items()

    def is_arriving(self, key: ExpertKey) -> bool:
        """Whether the expert has its slot in RAM and its bytes are on the way."""
        return key in self._arriving

    def slot(self, key: ExpertKey) -> Slot:
        """The slot of an expert at its `place`, or in RAM while it arrives. Raises KeyError when it has none."""
        card = self._card_of.get(key)
        return self.ram.slot(key) if card is None else self.cards[card].slot(key)

    def class_of(self, layer: int) -> int:
        """The size class of a layer's experts."""
        return self._class_of_layer[layer]

    # What is used

    def use(self, key: ExpertKey, count: float = 1.0) -> None:
        """An expert was chosen by the router in this step. `count` above 1 or broken: by several tokens of a prompt,
        each counted as much as it would count now had the tokens come one by one."""
        self.scores.use(key, count)

    def use_later(self, layer: int, experts: Sequence[int]) -> None:
        """A `use` of each, which is counted when it matters."""
        self.scores.use_later((layer, expert) for expert in experts)

    def advance(self, tokens: int = 1) -> None:
        """Tokens have passed through all layers."""
        self.scores.advance(tokens)
        if self.scores.scalings != self._scalings:
            self._scalings = self.scores.scalings
            for table in (self.ram, *self.cards):
                table.rank_again()

    def pin(self, key: ExpertKey) -> None:
        """Keep an expert at its `place`, or in its slot in RAM while it arrives."""
        self._table(key).pin(key)

    def unpin(self, key: ExpertKey) -> None:
        """Undo one `pin`. The expert is still where it was pinned."""
        self._table(key).unpin(key)

    # From the drive to RAM

    def reserve(
        self, key: ExpertKey, only_over: float | None = None, instead_of: ExpertKey | None = None
    ) -> Slot | None:
        """A slot in RAM for an expert that shall be read, pinned until `arrived` or `failed`.

        None when every slot of its size is pinned, or when the one that would have to leave has a score above
        `only_over`. The slot's former holder is forgotten at once: the lowest, or `instead_of`, who is here, of the
        same size and not pinned.
        """
        assert key not in self.ram, f"{key} is in RAM, or on its way there"
        size_class = self._class_of_layer[key[0]]
        slot = self.ram.put(key, size_class)
        if slot is None:
            victim = self.ram.lowest(size_class) if instead_of is None else instead_of
            if victim is None or (only_over is not None and self.scores.score(victim) > only_over):
                return None
            self.ram.remove(victim)
            self._moved(victim)
            self.evictions += 1
            slot = self.ram.put(key, size_class)
        assert slot is not None
        self._arriving.add(key)
        self.ram.pin(key)
        return slot

    def arrived(self, key: ExpertKey) -> None:
        """The bytes are in the slot. The pin of `reserve` is gone: pin before, to keep it."""
        self._arriving.remove(key)
        self.ram.unpin(key)
        self._moved(key)

    def failed(self, key: ExpertKey) -> None:
        """The bytes did not come, and nobody else holds a pin: the slot is empty again."""
        self._arriving.remove(key)
        self.ram.unpin(key)
        self.ram.remove(key)

    def lend(self, nbytes: int) -> list[Slot]:
        """Take slots of at least `nbytes` out of RAM, as far as one of each size is left; the lowest experts go.

        Their memory may be used for something else until `give_back`.
        """
        lent: list[Slot] = []
        for size_class, count in sorted(enumerate(self.ram.slots), key=lambda pair: -pair[1]):
            for _ in range(count - 1):
                if nbytes <= 0:
                    return lent
                slot = self.ram.take(size_class)
                if slot is None:
                    victim = self.ram.lowest(size_class)
                    if victim is None:
                        break
                    self.ram.remove(victim)
                    self._moved(victim)
                    self.evictions += 1
                    slot = self.ram.take(size_class)
                    assert slot is not None
                lent.append(slot)
                nbytes -= self.ram.classes[size_class].slot_bytes
        return lent

    def give_back(self, slots: Iterable[Slot]) -> None:
        """Undo a `lend`."""
        for slot in slots:
            self.ram.give_back(slot)

    def lend_card(self, card: int, share: float, most: int) -> list[Slot]:
        """Take slots out of a card: of each size a share, at most `most`; the lowest experts go. They are in RAM too,
        or on the drive only. Who is pinned stays, and so does its slot."""
        table, lent = self.cards[card], list[Slot]()
        for size_class, count in enumerate(table.slots):
            for _ in range(min(most, int(count * share))):
                slot = table.take(size_class)
                if slot is None:
                    victim = table.lowest(size_class)
                    if victim is None:
                        break
                    self._forget_on_card(victim)
                    self.evictions += self.exclusive
                    slot = table.take(size_class)
                    assert slot is not None
                lent.append(slot)
        return lent

    def give_back_card(self, card: int, slots: Iterable[Slot]) -> None:
        """Undo a `lend_card`."""
        for slot in slots:
            self.cards[card].give_back(slot)

    # Between RAM and cards

    def may_leave_ram(self, key: ExpertKey) -> bool:
        """Whether its place is RAM, and no promotion of it is under way."""
        return self.place(key) == RAM and key not in self._promoting

    def promotion(self, cards: Iterable[int], candidates: Iterable[ExpertKey]) -> PlannedMove | None:
        """The next copy that is worth making, to one of `cards`, in order of preference, of one of `candidates`.

        When the card has no empty slot this makes room first: by forgetting its lowest expert, or by a Demotion.
        Source and target are pinned until `copied` or `abandoned`. None when nothing is worth it.
        """
        best = max(filter(self.may_leave_ram, candidates), key=self.scores.rank, default=None)
        if best is None:
            return None
        size_class = self._class_of_layer[best[0]]
        for card in cards:
            table = self.cards[card]
            if not table.slots[size_class]:
                continue
            if not table.free_slots(size_class):
                lowest = table.lowest(size_class)
                if lowest is None or self.scores.rank(best) <= _CLEARLY_HIGHER * self.scores.rank(lowest):
                    continue
                demotion = self._make_room(card, lowest)
                if demotion is not None:
                    return demotion
            target = table.put(best, size_class)
            assert target is not None
            table.pin(best)
            self.ram.pin(best)
            self._promoting.add(best)
            return Promotion(best, card, self.ram.slot(best), target)
        return None

    def copied(self, move: PlannedMove) -> None:
        """The bytes of a move are at their target. Nobody may be using the source any more."""
        if isinstance(move, Promotion):
            self.cards[move.card].unpin(move.key)
            self.ram.unpin(move.key)
            self._promoting.remove(move.key)
            self._card_of[move.key] = move.card
            self.promotions += 1
            if self.exclusive:
                self.ram.remove(move.key)
            self._moved(move.key)
            return
        self._leaving.remove(move.key)
        self._arriving.remove(move.key)
        self.ram.unpin(move.key)
        self.cards[move.card].unpin(move.key)
        self._forget_on_card(move.key)
        self.demotions += 1

    def abandoned(self, move: PlannedMove) -> None:
        """A move failed: the expert stays at its source."""
        source, target = self.ram, self.cards[move.card]
        if isinstance(move, Demotion):
            source, target = target, source
            self._leaving.remove(move.key)
            self._arriving.remove(move.key)
        else:
            self._promoting.remove(move.key)
        source.unpin(move.key)
        target.unpin(move.key)
        target.remove(move.key)

    def can_complete(self, move: PlannedMove) -> bool:
        """Whether nobody but the move itself holds the source: `copied` may be called."""
        source = self.ram if isinstance(move, Promotion) else self.cards[move.card]
        return source.pins(move.key) == 1

    def _make_room(self, card: int, lowest: ExpertKey) -> Demotion | None:
        """Empty the slot of `lowest`, or begin to bring it to RAM when it stands higher than somebody there."""
        size_class = self._class_of_layer[lowest[0]]
        if self.exclusive:
            leaves_ram = None if self.ram.free_slots(size_class) else self.ram.lowest(size_class)
            worth = leaves_ram is None or self.scores.rank(leaves_ram) < self.scores.rank(lowest)
            if worth and (target := self.reserve(lowest)) is not None:
                self._leaving.add(lowest)
                self.cards[card].pin(lowest)
                return Demotion(lowest, card, self.cards[card].slot(lowest), target)
        self._forget_on_card(lowest)
        self.evictions += self.exclusive
        return None

    def _forget_on_card(self, key: ExpertKey) -> None:
        card = self._card_of.pop(key)
        self.cards[card].remove(key)
        self._moved(key, card)

    def _moved(self, key: ExpertKey, left: int | None = None) -> None:
        for watcher in self._watchers:
            watcher(key, left)

    def _table(self, key: ExpertKey) -> SlotTable:
        card = self._card_of.get(key)
        return self.ram if card is None else self.cards[card]
