"""A prompt's chunk: experts one after the other in rising order, each with all its tokens, while the drive brings more.

A sum's bits depend on its order, so experts that are here do not go before others that are still coming, as they do at
one token. That costs nothing: as long as there are slots to read into, the drive is ahead of the arithmetic, across
layers too. Each expert that is missing is read once in a chunk, and none leaves RAM that the chunk still needs.
"""

import heapq
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from offload.dispatch import ExpertWork, Way, dispatch, streaming_tokens
from offload.multiply import CardWork, SentWork
from offload.pool_device import AddResult
from offload.reader import Urgency
from offload.residency import DRIVE, RAM
from offload.send_ahead import SendAhead
from offload.slots import ExpertKey
from offload.tiers import Tiers
from quant.kernels import ExpertCall, ExpertWeights

# Experts in one call: as many as make up this many rows of tokens. Reads that have ended are seen between calls.
_ROWS_OF_A_CALL = 1024
_EXPERTS_OF_A_CALL = 16

# A drive with so much to read ahead of it is busy.
_BUSY_BYTES = 32 << 20
_FEWEST_READS, _MOST_READS = 2, 8


@dataclass(frozen=True, eq=False)
class Work:
    """An expert, the tokens that go to it (int64 [n]) and their weights (f32 [n])."""

    key: ExpertKey
    tokens: Tensor
    scales: Tensor


class ManyTokens:
    """Prefill. A pass is one chunk's way through all layers."""

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers
        layers = sorted(tiers.layers)
        self._first = layers[0]
        self._ahead = SendAhead(tiers)
        self._next = dict(pairwise(layers))
        # Experts that this pass has done with, the lowest first, by size class: who makes room for the next.
        self._passed: dict[int, list[tuple[float, ExpertKey]]] = {}

    def prepare(self, tokens: int) -> None:
        """See SendAhead.prepare."""
        self._ahead.prepare(tokens)

    def cancel(self) -> None:
        """Nobody waits for the sums of this pass any more: end what is on its way to the cards."""
        self._ahead.cancel()
        for sending in self._tiers.pool.sending:
            sending.give_up()

    def forward(self, layer: int, x: Tensor, works: Sequence[Work], shared: ExpertWeights | None) -> Tensor:
        """x [T, hidden] f32 -> [T, hidden] f32: the sum in the order of `works`, which is rising, then `shared`.

        Whatever it holds is to be released by the caller, also after Stopped and StoreError.
        """
        tiers = self._tiers
        if layer == self._first:
            self._passed = {}
        tiers.ram.collect()
        y = torch.zeros(x.shape)
        elsewhere, others = self._begin_elsewhere(layer, x, works)
        self._ahead.begin(layer, len(x))
        order = deque(work for work in works if work.key not in elsewhere)
        missing = deque(work.key for work in order if tiers.residency.place(work.key) == DRIVE)
        absent = set(missing)
        self._count(layer, order, absent)
        for work in order:
            if work.key not in absent:
                tiers.hold(work.key)
        following = self._following(layer, len(x))
        shared_sum: Tensor | None = None
        while order:
            tiers.check_stop()
            self._hold_arrived(tiers.ram.collect(), absent)
            self._look_for(order[0].key, missing, absent)
            self._request(missing, Urgency.DEMAND, absent)
            if not missing:
                self._request(following, Urgency.LOOK_AHEAD, absent)
            ready = self._ready(order, absent)
            if ready:
                self._multiply(layer, x, ready, y)
            elif shared is not None and shared_sum is None:
                shared_sum = self._shared(x, shared)  # something to do while the drive works
            elif order[0].key in missing and not tiers.ram.open_reads:
                self._give_up_last(order, missing, absent)
            else:
                self._hold_arrived(tiers.wait(), absent)
        self._pass_by([key for key in self._keys(layer) if key not in {work.key for work in works}])
        for add_result in others:
            add_result(y)
        tiers.release(elsewhere)
        if shared is not None:
            y += self._shared(x, shared) if shared_sum is None else shared_sum
        return y

    def _ready(self, order: deque[Work], absent: set[ExpertKey]) -> list[Work]:
        """The first works whose experts are here, as many as one call takes, out of `order`."""
        ready: list[Work] = []
        rows = 0
        while order and order[0].key not in absent and rows < _ROWS_OF_A_CALL and len(ready) < _EXPERTS_OF_A_CALL:
            ready.append(order.popleft())
            rows += len(ready[-1].tokens)
        return ready

    def _hold_arrived(self, arrived: Sequence[ExpertKey], absent: set[ExpertKey]) -> None:
        """Keep what has come for this layer until its turn is there."""
        for key in arrived:
            if key in absent:
                self._tiers.hold(key)
                absent.remove(key)

    def _look_for(self, key: ExpertKey, missing: deque[ExpertKey], absent: set[ExpertKey]) -> None:
        """The next in turn may have come unnoticed, or be lost: a guess that failed. It is held, or asked for again."""
        tiers = self._tiers
        if key not in absent or key in missing or tiers.ram.is_under_way(key):
            return
        if tiers.residency.place(key) == DRIVE:
            missing.appendleft(key)
        else:
            self._hold_arrived([key], absent)

    def _request(self, keys: deque[ExpertKey], urgency: Urgency, absent: set[ExpertKey]) -> None:
        """Ask for experts in order, as far as there are slots, and take them out of `keys`.

        What this pass has done with makes room first. Somebody whom it may still need leaves only for a demand, and
        only as long as the drive has too little to do: each of these has to be read again.
        """
        tiers = self._tiers
        while keys:
            key, victim = keys[0], None
            if tiers.residency.place(key) != DRIVE:  # a guess of before has brought it, or nobody has taken it away
                self._hold_arrived([keys.popleft()], absent)
                continue
            size_class = tiers.residency.class_of(key[0])
            if not tiers.ram.is_under_way(key) and not tiers.residency.ram.free_slots(size_class):
                victim = self._lowest_passed(size_class)
                if victim is None and (urgency != Urgency.DEMAND or self._drive_is_busy(key[0])):
                    return
            if not tiers.ram.request(key, urgency, instead_of=victim):
                return
            keys.popleft()

    def _drive_is_busy(self, layer: int) -> bool:
        enough = min(_MOST_READS, max(_FEWEST_READS, -(-_BUSY_BYTES // self._tiers.layers[layer].expert_bytes)))
        return self._tiers.ram.open_reads >= enough

    def _lowest_passed(self, size_class: int) -> ExpertKey | None:
        heap, ram = self._passed.setdefault(size_class, []), self._tiers.residency.ram
        while heap:
            _, key = heapq.heappop(heap)
            if key in ram and not ram.is_pinned(key):
                return key
        return None

    def _pass_by(self, keys: Sequence[ExpertKey]) -> None:
        """This pass needs these experts no more."""
        residency = self._tiers.residency
        for key in keys:
            if key in residency.ram:
                heap = self._passed.setdefault(residency.class_of(key[0]), [])
                heapq.heappush(heap, (residency.scores.rank(key), key))

    def _give_up_last(self, order: deque[Work], missing: deque[ExpertKey], absent: set[ExpertKey]) -> None:
        """Every slot is held by experts whose turn comes later: the last of them goes and comes back."""
        tiers = self._tiers
        if self._ahead.cancel():
            return
        for work in reversed(order):
            if work.key not in absent and tiers.residency.place(work.key) == RAM:
                tiers.release([work.key])
                absent.add(work.key)
                missing.clear()
                missing.extend(w.key for w in order if w.key in absent)
                return
        tiers.pool.finish_moves()  # nothing of ours is in the way

    def _multiply(self, layer: int, x: Tensor, works: Sequence[Work], y: Tensor) -> None:
        """Add the results of works, in order, by whoever has the expert; then release them."""
        tiers, facts = self._tiers, self._tiers.layers[layer]
        for place, run in groupby(works, lambda work: tiers.residency.place(work.key)):
            same = list(run)
            if place == RAM:
                started = time.perf_counter()
                tiers.multiplier.add(x, [ExpertCall(tiers.ram.weights(w.key), w.tokens, w.scales) for w in same], y)
                rows = sum(len(w.tokens) for w in same)
                tiers.cpu_computed(2.0 * facts.expert_weights * rows, time.perf_counter() - started)
            else:
                tiers.pool.begin(place, x, self._card_works(same))(y)
                tiers.tally.cards[place].add(len(same), len(same) * facts.expert_bytes)
        keys = [work.key for work in works]
        tiers.release(keys)
        self._pass_by(keys)

    def _begin_elsewhere(
        self, layer: int, x: Tensor, works: Sequence[Work]
    ) -> tuple[dict[ExpertKey, int], list[AddResult]]:
        """Cards whose results have their own bits: they compute beside the CPU, and are added at the end.

        They get what lies there, and what is cheaper to send there than to multiply by the CPU. Returns the card of
        each of these experts, which are held, and what adds the results.
        """
        tiers, results = self._tiers, []
        places = {work.key: tiers.residency.place(work.key) for work in works}
        here = {key: place for key, place in places.items() if self._is_elsewhere(place)}
        sent = self._worth_sending(layer, works, self._ahead.collect())
        for key in (*here, *sent):
            tiers.hold(key)
        self._ahead.release(sent.values())
        for card in sorted({*here.values(), *sent.values()}):
            found = [work for work in works if here.get(work.key) == card]
            if found:
                results.append(tiers.pool.begin(card, x, self._card_works(found)))
            copied = [
                SentWork(work.key, tiers.ram.content(work.key), work.tokens, work.scales)
                for work in works
                if sent.get(work.key) == card
            ]
            if copied:
                results.append(tiers.pool.begin_sent(card, x, copied))
            count = len(found) + len(copied)
            tiers.tally.cards[card].add(count, count * tiers.layers[layer].expert_bytes)
        return here | sent, results

    def _worth_sending(
        self, layer: int, works: Sequence[Work], ahead: Mapping[ExpertKey, int]
    ) -> dict[ExpertKey, int]:
        """Experts in RAM that a card would have multiplied before the CPU, the copy counted, and which card.

        Those that came `ahead` are on a card as good as any.
        """
        tiers, facts = self._tiers, self._tiers.layers[layer]
        if not tiers.pool.sending:
            return {}
        costs = []
        for work in works:
            place = ahead.get(work.key, tiers.residency.place(work.key))
            costs.append(ExpertWork(work.key, place, facts.expert_bytes, facts.expert_weights, len(work.tokens)))
        ways = dispatch(costs, tiers.speeds.speeds, tiers.pool.home(layer)).ways
        return {
            key: card
            for key, (way, card) in ways.items()
            if card is not None and (way is Way.COPY or key in ahead)
        }

    def _card_works(self, works: Sequence[Work]) -> list[CardWork]:
        return [CardWork(w.key, self._tiers.residency.slot(w.key), w.tokens, w.scales) for w in works]

    def _is_elsewhere(self, place: int) -> bool:
        return place >= 0 and not self._tiers.pool.devices[place].is_exact

    def _following(self, layer: int, tokens: int) -> deque[ExpertKey]:
        """What the next layer has not got, if a chunk of so many tokens will need most of it anyway."""
        following = self._next.get(layer)
        used = self._tiers.residency.layout.used_per_token
        if following is None or tokens < streaming_tokens(used, self._tiers.layers[following].experts):
            return deque()
        return deque(key for key in self._keys(following) if self._tiers.residency.place(key) == DRIVE)

    def _keys(self, layer: int) -> list[ExpertKey]:
        return [(layer, expert) for expert in range(self._tiers.layers[layer].experts)]

    def _count(self, layer: int, order: Iterable[Work], absent: set[ExpertKey]) -> None:
        """Count who was here when asked for."""
        tally, nbytes = self._tiers.tally, self._tiers.layers[layer].expert_bytes
        in_ram = sum(self._tiers.residency.place(work.key) == RAM for work in order)
        tally.ram.add(in_ram, in_ram * nbytes)
        tally.drive.add(len(absent), len(absent) * nbytes)

    def _shared(self, x: Tensor, shared: ExpertWeights) -> Tensor:
        tokens = len(x)
        return self._tiers.multiplier.kernels.experts(x, [ExpertCall(shared, torch.arange(tokens), torch.ones(tokens))])
