"""The cards: their slots, and the background copies that bring hot experts to them.

A card does two things: it copies bytes to and from its slots, in a thread of its own, and multiplies what is in them.
How it does the latter is its own affair (offload.pool_device).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from offload.dispatch import MeasuredSpeeds, promotions_allowed
from offload.moves import PlannedMove, Promotion
from offload.multiply import CardWork, SentWork
from offload.pool_device import AddResult, PoolDevice, Share
from offload.residency import Residency
from offload.slots import ExpertKey

# Of a card's slots, for experts that are sent in a long prompt: while it does what is not experts in a layer of K2, a
# link brings about so many.
_LENT_SHARE, _MOST_LENT = 1 / 8, 32

# Of a link's time, for promotions: with a quarter, 83 to 93 % of the hits are kept that unlimited copying would bring.
LINK_SHARE = 0.25


@dataclass(eq=False)
class Move:
    """A copy that was begun: which, how, and afterwards how long it took or why it failed."""

    move: PlannedMove
    copy: Callable[[], None]
    seconds: float = 0.0
    error: BaseException | None = None


class Copier(Protocol):
    """Copies for one card, one expert at a time, while its owner does something else."""

    def submit(self, move: Move) -> None:
        """Copy behind those that wait."""

    def done(self) -> list[Move]:
        """Copies that have ended since the last call."""

    def wait(self) -> None:
        """Wait until something is done."""

    def close(self) -> None:
        """End what is under way and wait for it. Safe to call twice."""


class _CopyThread:
    """A Copier that is a thread."""

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[Move] = deque()
        self._done: list[Move] = []
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=f"k2lite-copy-{name}", daemon=True)
        self._thread.start()

    def submit(self, move: Move) -> None:
        with self._condition:
            self._waiting.append(move)
            self._condition.notify_all()

    def done(self) -> list[Move]:
        with self._condition:
            done, self._done = self._done, []
            return done

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                move = self._waiting.popleft()
            started = time.perf_counter()
            try:
                move.copy()
            except Exception as error:  # belongs to the thread that owns the pool
                move.error = error
            move.seconds = time.perf_counter() - started
            with self._condition:
                self._done.append(move)
                self._condition.notify_all()

    def wait(self) -> None:
        """Wait until something is done."""
        with self._condition:
            self._condition.wait_for(lambda: self._done or self._closed)


class Pool:
    """The cards of a machine, each with a contiguous range of layers whose experts prefer it."""

    def __init__(
        self,
        devices: Sequence[PoolDevice],
        residency: Residency,
        speeds: MeasuredSpeeds,
        ram_bytes: Callable[[ExpertKey], Callable[[], np.ndarray]],
        copiers: Sequence[Copier] | None = None,
        link_share: float = LINK_SHARE,
        homes: Mapping[int, int] | None = None,
    ) -> None:
        """`ram_bytes` of an expert gives, in the copying thread, the bytes of its slot in RAM, to copy from or to.

        `copiers`, one for each device, None for a thread for each. They get `link_share` of their links' time.
        `homes` are the cards that have layers, by layer; layers that none has are shared out in order.
        """
        self._link_share = link_share
        self.devices = tuple(devices)
        self._residency, self._speeds, self._ram_bytes = residency, speeds, ram_bytes
        self._copiers = [_CopyThread(device.name) for device in devices] if copiers is None else list(copiers)
        self._under_way: list[Move] = []
        self._finished: list[Move] = []
        self._allowance = [0.0] * len(devices)  # experts that each link may be given
        self.busy_s = [0.0] * len(devices)
        layers = sorted(residency.layout.counts)
        shared_out = {layer: index * len(devices) // len(layers) for index, layer in enumerate(layers)}
        sending = [device.sending for device in devices if device.sending is not None]
        self.sending = sending if len(sending) == len(devices) else []  # of each card, if all take experts
        own = {layer: card for layer, card in (homes or {}).items() if layer in shared_out}
        self._home = shared_out | own
        shares = ((layer, self.devices[card].share(layer)) for layer, card in own.items())
        self._shares = {layer: share for layer, share in shares if share is not None}

    def home(self, layer: int) -> int:
        """The card that the experts of a layer prefer."""
        return self._home[layer]

    def share(self, layer: int) -> Share | None:
        """See PoolDevice.share, of the card that has the layer."""
        return self._shares.get(layer)

    def sharing_home(self, layer: int) -> int | None:
        """The card that has a layer, where it has a share of its experts."""
        return self._home[layer] if layer in self._shares else None

    def moved(self, key: ExpertKey, place: int, left: int | None) -> None:
        """An expert has another place now: the card that it left and the one that it came to take note of it."""
        if left is not None:
            self.devices[left].moved(key, None)
        if place >= 0:
            self.devices[place].moved(key, self._residency.slot(key))

    def begin(self, card: int, x: Tensor, works: Sequence[CardWork]) -> AddResult:
        """See PoolDevice.begin."""
        return self.devices[card].begin(x, works)

    def begin_sent(self, card: int, x: Tensor, works: Sequence[SentWork]) -> AddResult:
        """See CardSending.begin."""
        return self.sending[card].begin(x, works)

    def lend_slots(self) -> None:
        """Have the cards use some of their slots for experts that are sent. Their coldest experts leave: RAM has them
        too, or the drive."""
        for card, sending in enumerate(self.sending):
            if not sending.lent:
                sending.lend(self._residency.lend_card(card, _LENT_SHARE, _MOST_LENT))

    def take_slots_back(self) -> None:
        """Undo `lend_slots`: the slots are empty, and promotions fill them."""
        for card, sending in enumerate(self.sending):
            self._residency.give_back_card(card, sending.take_back())

    def end_token(self, used: Iterable[ExpertKey], seconds: float) -> None:
        """A token has been computed in `seconds`: settle what has been copied, and begin what the links have time for.

        `used` are its experts: only they have risen, so only they may have become worth a place on a card.
        """
        if not self.devices:
            return
        self.settle()
        for card in range(len(self.devices)):
            nbytes = max(self._residency.layout.slot_bytes.values())
            link = self._speeds.speeds.cards[card].link_bytes_per_s
            allowed = promotions_allowed(nbytes, link, seconds, self._link_share)
            self._allowance[card] = min(self._allowance[card] + allowed, max(2.0, allowed))
        if max(self._allowance) < 1:
            return
        waiting = sorted(filter(self._residency.may_leave_ram, used), key=self._residency.scores.rank, reverse=True)
        for card in range(len(self.devices)):
            # The home layers' experts first, then any that is worth it.
            self._begin_moves(card, [key for key in waiting if self._home[key[0]] == card])
            self._begin_moves(card, [key for key in waiting if self._home[key[0]] != card and self._is_full(key)])

    def settle(self) -> None:
        """Take note of copies that have ended, as far as nobody uses their source. Raises what a copy raised."""
        for card, copier in enumerate(self._copiers):
            for done in copier.done():
                self._under_way.remove(done)
                self._finished.append(done)
                self.busy_s[card] += done.seconds
                self._speeds.link(card, self._residency.layout.slot_bytes[done.move.key[0]], done.seconds)
        errors = [done.error for done in self._finished if done.error is not None]
        waiting = []
        for done in self._finished:
            if done.error is not None:
                self._residency.abandoned(done.move)
            elif self._residency.can_complete(done.move):
                self._residency.copied(done.move)
            else:
                waiting.append(done)
        self._finished = waiting
        if errors:
            raise errors[0]

    def finish_moves(self) -> None:
        """Wait for all copies under way, and take note of them."""
        self.settle()
        while self._under_way:
            card = self._under_way[0].move.card
            self._copiers[card].wait()
            self.settle()

    def close(self) -> None:
        """End the copies and free the cards. Safe to call twice."""
        for copier in self._copiers:
            copier.close()
        for device in self.devices:
            device.close()

    def _is_full(self, key: ExpertKey) -> bool:
        """Whether the card that an expert prefers has no empty slot for it."""
        return not self._residency.cards[self._home[key[0]]].free_slots(self._residency.class_of(key[0]))

    def _begin_moves(self, card: int, waiting: Sequence[ExpertKey]) -> None:
        """Promotions to a card, in the order of `waiting`, until one is not worth it or the link has no more time."""
        for key in waiting:
            while self._residency.may_leave_ram(key):
                if self._allowance[card] < 1:
                    return
                move = self._residency.promotion([card], [key])
                if move is None:
                    return
                self._allowance[card] -= 1
                self._under_way.append(begun := self._move(move))
                self._copiers[card].submit(begun)

    def _move(self, move: PlannedMove) -> Move:
        device, in_ram = self.devices[move.card], self._ram_bytes(move.key)
        if isinstance(move, Promotion):
            return Move(move, lambda: device.upload(move.key, in_ram(), move.target))
        return Move(move, lambda: device.download(move.key, move.source, in_ram()))
