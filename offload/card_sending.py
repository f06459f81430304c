"""Experts that a card gets for a prompt's sake: copied to places of its own, some while others are multiplied.

Places are a few behind the card's slots, and slots that it was lent. While the experts of one layer are multiplied,
those of the next may come ahead. All copies are one thread's, in the order in which they were asked for.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from offload.card_link import CardLink
from offload.multiply import CardWork, ExpertBytes, SentWork
from offload.slots import ExpertKey, Slot
from quant.kernels.card_scratch import places_together

# So many experts are multiplied in one call while as many again are copied.
GROUP = 8
STAGED = 2 * GROUP

Content = tuple[ExpertKey, Callable[[], ExpertBytes]]  # see SentWork.content


class SlotMemory(Protocol):
    """The card whose memory the places are in."""

    def class_of(self, layer: int) -> int:
        """The size class of a layer's experts."""

    def copy(self, link: CardLink, key: ExpertKey, source: ExpertBytes, target: Slot) -> None:
        """Copy an expert; it is there when this returns."""

    def multiply(self, link: CardLink, x: Tensor, works: Sequence[CardWork], total: Tensor) -> None:
        """Queue the product of x [T, hidden] with experts of one layer; adds it to `total`. Both are on the card."""


class CardSending:
    """One card's. The methods belong to the thread that computes."""

    def __init__(self, name: str, memory: SlotMemory, link: CardLink, slots: Sequence[int]) -> None:
        """`slots` are the card's own, by size class; the places behind them have the numbers that follow."""
        self._memory, self._link, self._slots = memory, link, tuple(slots)
        self._thread = ThreadPoolExecutor(1, f"k2lite-send-{name}")
        self._lent: list[Slot] = []
        self._ahead_job: Future[None] | None = None
        self._enough, self._given_up = threading.Event(), threading.Event()
        # What follows belongs to the thread of the copies, or to its owner while that has nothing to do.
        self._staged, self._free = list(range(STAGED)), list[Slot]()
        self._multiplied: deque[tuple[Callable[[], None], list[Slot]]] = deque()
        self._ahead: dict[ExpertKey, Slot] = {}

    def begin(self, x: Tensor, works: Sequence[SentWork]) -> Callable[[Tensor], None]:
        """Begin to multiply x [T, hidden] f32 on the host by experts of one layer; what is returned adds the result to
        y [T, hidden] and waits for it. What had come ahead and is not among them is given up."""
        done = self._thread.submit(self._send, x, works)

        def add_result(y: Tensor) -> None:
            y += done.result()

        return add_result

    def places_ahead(self, layer: int) -> int:
        """How many experts of a layer may come ahead."""
        size_class = self._memory.class_of(layer)
        return GROUP + sum(slot.size_class == size_class for slot in self._lent)

    def send_ahead(self, contents: Sequence[Content]) -> None:
        """Begin to copy experts for the next `begin`, no more than there are `places_ahead`."""
        self._enough.clear()
        self._ahead_job = self._thread.submit(self._copy_ahead, contents)

    def end_ahead(self) -> list[ExpertKey]:
        """Copy no more ahead; returns who is there, for the next `begin`. Raises what a copy raised."""
        self._enough.set()
        job, self._ahead_job = self._ahead_job, None
        if job is not None:
            job.result()
        return list(self._ahead)

    def give_up(self) -> None:
        """Forget what came ahead, and end what was begun and nobody waits for any more."""
        self._enough.set()
        self._given_up.set()
        self._ahead_job = None
        self._thread.submit(self._forget_all).result()
        self._given_up.clear()

    @property
    def lent(self) -> tuple[Slot, ...]:
        """Slots that are places meanwhile."""
        return tuple(self._lent)

    def lend(self, slots: Sequence[Slot]) -> None:
        """Use empty slots as places, until `take_back`."""
        self._lent += slots
        self._thread.submit(self._free.extend, slots).result()

    def take_back(self) -> tuple[Slot, ...]:
        """The slots that were lent, of which nobody makes use any more."""
        lent, self._lent = self.lent, []
        if lent:
            self.give_up()
            self._free.clear()
        return lent

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        self._enough.set()
        self._given_up.set()
        self._thread.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _send(self, x: Tensor, works: Sequence[SentWork]) -> Tensor:
        """The sum over all works, [T, hidden] on the host."""
        try:
            with self._link.computing():
                given = self._link.given_rows(x)
                total = torch.zeros(x.shape, device=given.device)
            wanted = {work.key for work in works}
            for key in [key for key in self._ahead if key not in wanted]:
                self._put_back([self._ahead.pop(key)])
            here = [work for work in works if work.key in self._ahead]
            rest = [work for work in works if work.key not in self._ahead]
            for group in _groups(here):
                self._multiply(given, [_placed(work, self._ahead.pop(work.key)) for work in group], total)
            for group in _groups(rest):
                if self._given_up.is_set():
                    break
                self._multiply(given, [_placed(work, self._copied(work.key, work.content)) for work in group], total)
            with self._link.computing():
                taken = self._link.taken(total)
            return taken()
        except BaseException:
            self._forget_all()
            raise

    def _copy_ahead(self, contents: Sequence[Content]) -> None:
        for key, content in contents:
            if self._enough.is_set():
                return
            self._ahead[key] = self._copied(key, content)

    def _copied(self, key: ExpertKey, content: Callable[[], ExpertBytes]) -> Slot:
        """Copy an expert to a place; returns that."""
        size_class = self._memory.class_of(key[0])
        while (place := self._take(size_class)) is None:
            done, places = self._multiplied.popleft()
            done()
            self._put_back(places)
        self._memory.copy(self._link, key, content(), place)
        return place

    def _multiply(self, x: Tensor, works: Sequence[CardWork], total: Tensor) -> None:
        with self._link.computing():
            for part in _parts(works, places_together(x.shape[1])):
                self._memory.multiply(self._link, x, part, total)
            self._multiplied.append((self._link.done(), [work.slot for work in works]))

    def _take(self, size_class: int) -> Slot | None:
        """A free place for an expert of a size, those that fit no other size first."""
        for number, slot in enumerate(self._free):
            if slot.size_class == size_class:
                return self._free.pop(number)
        return Slot(size_class, self._slots[size_class] + self._staged.pop()) if self._staged else None

    def _put_back(self, places: Sequence[Slot]) -> None:
        for place in places:
            staged = place.index - self._slots[place.size_class]
            if staged >= 0:
                self._staged.append(staged)
            else:
                self._free.append(place)

    def _forget_all(self) -> None:
        """All places are free, and nothing reads what is in them."""
        for done, _ in self._multiplied:
            done()
        self._multiplied.clear()
        self._ahead.clear()
        self._staged, self._free = list(range(STAGED)), list(self._lent)


def _groups(works: Sequence[SentWork]) -> list[Sequence[SentWork]]:
    return [works[start : start + GROUP] for start in range(0, len(works), GROUP)]


def _parts(works: Sequence[CardWork], most: int) -> Iterator[list[CardWork]]:
    """`works` in calls of at most so many tokens each, so that what they take does not grow with the prompt."""
    part: list[CardWork] = []
    rows = 0
    for work in works:
        for tokens, scales in zip(work.tokens.split(most), work.scales.split(most), strict=True):
            if part and rows + len(tokens) > most:
                yield part
                part, rows = [], 0
            part.append(CardWork(work.key, work.slot, tokens, scales))
            rows += len(tokens)
    if part:
        yield part


def _placed(work: SentWork, place: Slot) -> CardWork:
    return CardWork(work.key, place, work.tokens, work.scales)
