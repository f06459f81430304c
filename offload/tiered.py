"""Experts in several tiers behind the one door: cards, RAM and a drive, used at once.

One thread, the caller of `forward`, owns everything here; only reading and copying have threads of their own.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from offload.few_tokens import FewTokens
from offload.lookahead import LookAhead, RouterGuess
from offload.many_tokens import ManyTokens, Work
from offload.memory_watch import MemoryWatch, give_back_heap
from offload.pool_device import Share
from offload.state import ExpertsState, TierState
from offload.tiers import Tiers
from offload.token_groups import group_by_expert
from quant.kernels import ExpertWeights
from quant.kernels.expert_records import ExpertRecords


class TieredExperts:
    """See offload.experts.Experts. Owns its tiers: `close` closes them."""

    def __init__(
        self,
        tiers: Tiers,
        routers: Mapping[int, RouterGuess],
        prefill_tokens: int | None = None,
        notes: tuple[str, ...] = (),
        chunk_bytes: Callable[[int], int] = lambda tokens: 0,
        watch: MemoryWatch | None = None,
        later_notes: Sequence[str] = (),
    ) -> None:
        """`routers` of all layers, for the look-ahead; `prefill_tokens` as in Experts; `notes` for the user.

        Slots make room for the `chunk_bytes` that a chunk of so many tokens takes. `watch` looks whether memory gets
        less. Who made the rest of the model may add `later_notes`.
        """
        self._bytes_of_chunk = chunk_bytes
        self._watch, self._given_up_bytes, self._chunk_bytes = watch, 0, 0
        self._tiers = tiers
        self._look_ahead = LookAhead(tiers, routers if tiers.ram.reader_state() is not None else {})
        self._few, self._many = FewTokens(tiers, self._look_ahead), ManyTokens(tiers)
        self._first, self._last = min(tiers.layers), max(tiers.layers)
        self._prefill_tokens, self._notes, self._later_notes = prefill_tokens, notes, later_notes
        self._token_began = tiers.clock()
        self._keys = {
            layer: [(layer, expert) for expert in range(facts.experts)] for layer, facts in tiers.layers.items()
        }

    @property
    def prefill_tokens(self) -> int | None:
        """See Experts.prefill_tokens."""
        return self._prefill_tokens

    def forward(
        self,
        layer: int,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None = None,
        beside: bool = False,
    ) -> Tensor:
        """See Experts.forward. Also raises StoreError, and Stopped where `listen` has said so."""
        tiers = self._tiers
        if layer == self._first:
            tiers.residency.advance(len(x))
        try:
            tiers.check_stop()
            self._look_at_memory()
            if len(x) == 1:
                y, chosen = self._few.forward(layer, x, ids[0], weights[0], shared, beside)
            else:
                chosen = ids[-1].tolist()
                self._count_uses(layer, ids)
                groups = group_by_expert(ids, weights)
                y = self._many.forward(layer, x, [Work((layer, g.expert), g.tokens, g.scales) for g in groups], shared)
        except BaseException:
            self._many.cancel()
            tiers.release_all()
            tiers.ram.cancel()
            raise
        tiers.tally.used[layer] = tuple(chosen)
        if layer == self._last:
            self._end_of_pass()
        return y

    def share_of(self, layer: int) -> Share | None:
        """See Experts.share_of."""
        return self._tiers.pool.share(layer)

    def records(self) -> Mapping[int, ExpertRecords]:
        """See TabledExperts.records."""
        return self._tiers.records

    @property
    def is_there(self) -> bool:
        """See TabledExperts.is_there."""
        return True

    @property
    def guessed_ahead(self) -> int:
        """See TabledExperts.guessed_ahead."""
        width = self._look_ahead.width
        return width if width and any(records.has_gaps for records in self._tiers.records.values()) else 0

    def note(
        self,
        layer: int,
        ids: Sequence[int],
        shared: ExpertWeights | None,
        seconds: float,
        in_ram: int | None = None,
    ) -> None:
        """See TabledExperts.note."""
        if layer == self._first:
            self._tiers.residency.advance()
        self._tiers.residency.use_later(layer, ids)
        self._look_ahead.asked(layer, ids)
        self._look_ahead.rest()
        in_ram = len(ids) if in_ram is None else in_ram
        self._few.note(layer, len(ids), in_ram, 0 if shared is None else shared.nbytes, seconds)
        self._tiers.tally.used[layer] = tuple(ids)
        if layer == self._last:
            self._end_of_pass()

    def prepare(self, tokens: int) -> None:
        """See Experts.prepare. A chunk's activations take the place of some experts meanwhile. Also raises StoreError,
        and Stopped where `listen` has said so."""
        self._tiers.check_stop()
        self._look_at_memory()
        self._tiers.ram.collect()
        if tokens > 1:
            self._few.count_noted()  # what was measured decides where a prompt's experts are multiplied
        self._many.prepare(tokens)
        needed = self._bytes_of_chunk(tokens)
        if needed != self._chunk_bytes:
            if needed < self._chunk_bytes:
                give_back_heap()  # before slots take it again
            self._chunk_bytes = needed
            self._lend()

    def announce(self, layer: int, stream: Tensor) -> None:
        """See Experts.announce."""
        if len(stream) == 1:
            self._look_ahead.announce(layer, stream)

    def listen(self, stop: threading.Event | None) -> None:
        """See Experts.listen."""
        self._tiers.stop = stop

    def counters(self) -> dict[str, int]:
        """See Experts.counters."""
        self._few.count_noted()
        counters = self._tiers.tally.counters()
        reader = self._tiers.ram.reader_state()
        if reader is not None:
            counters["drive_bytes"] = reader.nbytes  # what was guessed wrong was read as well
        return counters

    def state(self) -> ExpertsState:
        """See Experts.state."""
        self._few.count_noted()
        tiers, residency = self._tiers, self._tiers.residency
        reader = tiers.ram.reader_state()
        letters = {layer: ["."] * facts.experts for layer, facts in tiers.layers.items()}
        for (layer, expert), place in residency.placed():
            letters[layer][expert] = _place_letter(place)
        return ExpertsState(
            places={layer: "".join(found) for layer, found in letters.items()},
            scores={layer: residency.scores.scores(found) for layer, found in self._keys.items()},
            used=dict(tiers.tally.used),
            tiers=self._tier_states(),
            evictions=residency.evictions,
            promotions=residency.promotions,
            stall_s=tiers.tally.stall_s,
            queue_depth=0.0 if reader is None else reader.mean_depth,
            lookahead_reads=self._look_ahead.reads,
            lookahead_used=self._look_ahead.used,
            notes=(*self._notes, *self._later_notes),
        )

    def settle(self) -> None:
        """See Experts.settle."""
        self._tiers.pool.finish_moves()

    def close(self) -> None:
        """See Experts.close."""
        self._tiers.pool.close()
        self._tiers.ram.close()

    def _look_at_memory(self) -> None:
        """Once a second: have slots given up while memory is short. Raises StoreError when that is not enough."""
        if self._watch is None or not self._watch.is_due:
            return
        ram = self._tiers.ram
        given_up = max(0, ram.lent_bytes - self._chunk_bytes)
        wanted = self._watch.bytes_to_give_up(given_up, ram.promised_bytes)
        if wanted != self._given_up_bytes:
            self._given_up_bytes = wanted
            self._lend()

    def _lend(self) -> None:
        """As far as one slot of each size is left."""
        self._tiers.ram.lend(self._chunk_bytes + self._given_up_bytes)

    def _count_uses(self, layer: int, ids: Tensor) -> None:
        """As if the chunk's tokens had come one by one: an early one counts less by now."""
        residency = self._tiers.residency
        age = torch.arange(len(ids) - 1, -1, -1, dtype=torch.float64)
        counts = (residency.scores.decay**age)[:, None].expand(ids.shape).flatten()
        sums = torch.bincount(ids.flatten(), weights=counts)
        for expert in ids.unique().tolist():
            residency.use((layer, expert), float(sums[expert]))

    def _end_of_pass(self) -> None:
        """All layers are done: the pool may settle what it copied, and copy what was used."""
        if not self._tiers.pool.devices:
            return
        self._few.count_noted()
        now = self._tiers.clock()
        seconds, self._token_began = now - self._token_began, now
        used = [(layer, expert) for layer, experts in self._tiers.tally.used.items() for expert in experts]
        self._tiers.pool.end_token(used, seconds)

    def _tier_states(self) -> tuple[TierState, ...]:
        tiers, residency, tally = self._tiers, self._tiers.residency, self._tiers.tally
        states = [
            TierState(f"card {n}", table.capacity_bytes, table.used_bytes, done.experts, done.nbytes, done.busy_s)
            for n, (table, done) in enumerate(zip(residency.cards, tally.cards, strict=True))
        ]
        ram = residency.ram
        done, fastest = tally.ram, tally.ram_fastest.bytes_per_s
        states.append(
            TierState("RAM", ram.capacity_bytes, ram.used_bytes, done.experts, done.nbytes, done.busy_s, fastest)
        )
        reader = tiers.ram.reader_state()
        if reader is not None:
            total = residency.layout.total_bytes
            drive, fastest = tally.drive.experts, reader.fastest_bytes_per_s
            states.append(TierState("drive", total, total, drive, reader.nbytes, reader.busy_s, fastest))
        return tuple(states)


def _place_letter(place: int) -> str:
    return str(place % 10) if place >= 0 else "r"
