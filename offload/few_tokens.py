"""One token's experts, as fast as they can be had: cards and RAM at once, the drive meanwhile."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from offload.lookahead import LookAhead
from offload.multiply import CardWork, RowSum
from offload.pool_device import AddResult
from offload.reader import Urgency
from offload.residency import DRIVE, RAM
from offload.slots import ExpertKey
from offload.tiers import Tiers
from quant.kernels import ExpertWeights
from quant.kernels.expert_records import ExpertRecords

Row = tuple[int, ExpertKey]  # of the sum, and the expert that it is of
_MOST_NOTED = 4096
_ONE = torch.zeros(1, dtype=torch.int64)  # the only token's number


class FewTokens:
    """Decoding: one token, whose experts each get a row of their own, so that they may be multiplied in any order."""

    def __init__(self, tiers: Tiers, look_ahead: LookAhead) -> None:
        self._tiers, self._look_ahead = tiers, look_ahead
        self._noted: list[tuple[int, int, int, int, float]] = []  # not yet counted
        self._elsewhere = {card for card, device in enumerate(tiers.pool.devices) if not device.is_exact}

    def forward(
        self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: ExpertWeights | None, beside: bool = False
    ) -> tuple[Tensor, list[int]]:
        """x [1, hidden] f32, ids int64 and weights f32 [k]: the sum [1, hidden] in the order of `ids`, then `shared`,
        and the ids. With `beside` the share of the layer's card is left out.

        Whatever it holds is to be released by the caller, also after Stopped and StoreError.
        """
        tiers = self._tiers
        tiers.ram.collect()
        chosen = ids.tolist()
        tiers.residency.use_later(layer, chosen)
        records = tiers.records.get(layer)
        if records is not None and records.has(chosen, beside):
            y = self._in_one_call(layer, x, records, ids, weights, shared, beside, chosen)
            if y is not None:
                return y, chosen
        return self._in_parts(layer, x, chosen, weights, shared, beside), chosen

    def note(self, layer: int, used: int, in_ram: int, shared_bytes: int, seconds: float) -> None:
        """Of `used` experts so many were multiplied in RAM, `shared` with them, the others on the layer's card.

        It is counted later: between two layers that takes six times as long as all at once.
        """
        self._noted.append((layer, used, in_ram, shared_bytes, seconds))
        if len(self._noted) == _MOST_NOTED:
            self.count_noted()

    def count_noted(self) -> None:
        """Count what was noted."""
        tiers = self._tiers
        for layer, used, in_ram, shared_bytes, seconds in self._noted:
            nbytes = tiers.layers[layer].expert_bytes
            tiers.tally.ram.add(in_ram, in_ram * nbytes)
            if in_ram < used:
                on_card = used - in_ram
                tiers.tally.cards[tiers.pool.home(layer)].add(on_card, on_card * nbytes)
            if multiplied_bytes := in_ram * nbytes + shared_bytes:
                tiers.cpu_worked(multiplied_bytes, shared_bytes, seconds)
        self._noted.clear()

    def _in_one_call(
        self,
        layer: int,
        x: Tensor,
        records: ExpertRecords,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None,
        beside: bool,
        chosen: list[int],
    ) -> Tensor | None:
        """All at once, where all are at hand; None where a guess has just sent one of them away."""
        assert self._tiers.multiplier.fused is not None
        self._look_ahead.asked(layer, chosen)
        self._look_ahead.guess(layer)
        y, in_ram, seconds = self._tiers.multiplier.fused.dispatch(x, records, ids, weights, shared, beside)
        if y is not None:
            self.note(layer, len(chosen), in_ram, 0 if shared is None else shared.nbytes, seconds)
        return y

    def _in_parts(
        self, layer: int, x: Tensor, ids: Sequence[int], weights: Tensor, shared: ExpertWeights | None, beside: bool
    ) -> Tensor:
        """Each where it is, those that are here while the others come."""
        tiers = self._tiers
        done = tiers.pool.sharing_home(layer) if beside else None
        here: list[Row] = []
        backlog: deque[Row] = deque()
        elsewhere: dict[int, list[Row]] = {}
        for row, expert in enumerate(ids):
            key = (layer, expert)
            place = tiers.residency.place(key)
            if place == DRIVE:
                backlog.append((row, key))
            elif place == done:
                tiers.tally.cards[place].add(1, tiers.layers[layer].expert_bytes)
            elif place in self._elsewhere:
                elsewhere.setdefault(place, []).append((row, key))
            else:
                tiers.hold(key)
                here.append((row, key))
        results = [self._begin(card, x, weights, rows) for card, rows in elsewhere.items()]
        y = torch.zeros(x.shape)
        if here or backlog or shared is not None:
            y = self._one_by_one(layer, x, weights, ids, here, backlog, shared)
        else:
            self._look_ahead.asked(layer, ids)
            self._look_ahead.guess(layer)
        for add_result in results:
            add_result(y)
        return y

    def _begin(self, card: int, x: Tensor, weights: Tensor, rows: Sequence[Row]) -> AddResult:
        """Have a card whose sums have bits of their own multiply the experts that it has.

        Nobody leaves it before the token has passed, so they need not be held.
        """
        tiers = self._tiers
        scales = weights.split(1)
        works = [CardWork(key, tiers.residency.slot(key), _ONE, scales[row]) for row, key in rows]
        tiers.tally.cards[card].add(len(rows), len(rows) * tiers.layers[works[0].key[0]].expert_bytes)
        return tiers.pool.begin(card, x, works)

    def _one_by_one(
        self,
        layer: int,
        x: Tensor,
        weights: Tensor,
        ids: Sequence[int],
        here: Sequence[Row],
        backlog: deque[Row],
        shared: ExpertWeights | None,
    ) -> Tensor:
        """The sum of those that are `here`, in RAM or on a card like it, of those that are read, and of `shared`."""
        tiers = self._tiers
        sums = RowSum(x, weights if shared is None else torch.cat((weights, torch.ones(1))))
        awaited = self._demand(backlog)
        self._look_ahead.asked(layer, ids)
        self._look_ahead.guess(layer)
        hits = self._multiply(layer, sums, here, shared)
        tiers.tally.ram.add(hits, hits * tiers.layers[layer].expert_bytes)
        while awaited or backlog:
            tiers.wait()
            arrived = self._arrived(awaited)
            tiers.tally.drive.add(len(arrived), len(arrived) * tiers.layers[layer].expert_bytes)
            self._multiply(layer, sums, arrived)
            self._ask_again(awaited, backlog)
            awaited.update(self._demand(backlog))
        return sums.total()

    def _demand(self, backlog: deque[Row]) -> dict[ExpertKey, int]:
        """Ask for those for which there are slots, and take them out of `backlog`; returns the row of each."""
        asked: dict[ExpertKey, int] = {}
        while backlog:
            row, key = backlog[0]
            is_here = self._tiers.residency.place(key) != DRIVE  # a guess of before has brought it meanwhile
            if not is_here and not self._tiers.ram.request(key, Urgency.DEMAND):
                break
            asked[key] = row
            backlog.popleft()
        return asked

    def _ask_again(self, awaited: dict[ExpertKey, int], backlog: deque[Row]) -> None:
        """Who was here or on the way, and is no longer: a guess that failed, or one that made room for another."""
        tiers = self._tiers
        for key in list(awaited):
            if tiers.residency.place(key) == DRIVE and not tiers.ram.is_under_way(key):
                backlog.append((awaited.pop(key), key))

    def _arrived(self, awaited: dict[ExpertKey, int]) -> list[Row]:
        """Those that are there now, held and no longer awaited."""
        rows = [(row, key) for key, row in awaited.items() if self._tiers.residency.place(key) != DRIVE]
        for _, key in rows:
            self._tiers.hold(key)
            del awaited[key]
        return rows

    def _multiply(self, layer: int, sums: RowSum, rows: Sequence[Row], shared: ExpertWeights | None = None) -> int:
        """Multiply by experts that are held, wherever they are, and release them; returns how many were in RAM."""
        tiers, nbytes = self._tiers, self._tiers.layers[layer].expert_bytes
        by_place: dict[int, list[Row]] = {}
        for row, key in rows:
            by_place.setdefault(tiers.residency.place(key), []).append((row, key))
        in_ram = by_place.pop(RAM, [])
        finish = [
            tiers.pool.begin(card, sums.x, [sums.card_work(row, key, tiers.residency.slot(key)) for row, key in found])
            for card, found in by_place.items()
        ]
        calls = [sums.call(row, tiers.ram.weights(key)) for row, key in in_ram]
        shared_bytes = 0
        if shared is not None:
            calls.append(sums.call(len(sums.rows) - 1, shared))
            shared_bytes = shared.nbytes
        if calls:
            started = tiers.clock()
            tiers.multiplier.add(sums.x, calls, sums.rows)
            tiers.cpu_worked(len(in_ram) * nbytes + shared_bytes, shared_bytes, tiers.clock() - started)
        for add_result in finish:
            add_result(sums.rows)
        for card, found in by_place.items():
            tiers.tally.cards[card].add(len(found), len(found) * nbytes)
        tiers.release(key for _, key in rows)
        return len(in_ram)
