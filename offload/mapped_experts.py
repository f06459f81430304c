"""Experts that lie in mapped memory: nothing is copied, and nobody moves."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offload.experts import for_all_tokens
from offload.multiply import Multiplier, RowSum
from offload.pool_device import Share
from offload.ram_tier import LayerExperts
from offload.scores import DecayedScores
from offload.slots import ExpertKey
from offload.state import ExpertsState, TierState
from offload.tally import Tally
from offload.token_groups import group_by_expert
from offload.warm_up import WarmUp, advise_needed
from quant.kernels import ExpertCall, ExpertWeights, Kernels
from quant.kernels.expert_records import ExpertRecords
from quant.tensor import QuantizedTensor

_HEAT_DECAY = 0.97
_MOST_NOTED = 4096


@dataclass(frozen=True)
class StackedExperts:
    """Three stacked tensors: gate and up [experts, width, hidden], down [experts, hidden, width]."""

    gate: QuantizedTensor
    up: QuantizedTensor
    down: QuantizedTensor

    def expert(self, index: int) -> ExpertWeights:
        """See LayerExperts.expert."""
        return ExpertWeights(self.gate.slab(index), self.up.slab(index), self.down.slab(index))

    @property
    def experts(self) -> int:
        """See LayerExperts.experts."""
        return self.gate.shape[0]

    @property
    def tensors(self) -> tuple[QuantizedTensor, ...]:
        """See LayerExperts.tensors."""
        return self.gate, self.up, self.down

    @property
    def expert_bytes(self) -> int:
        """See LayerExperts.expert_bytes."""
        return (self.gate.nbytes + self.up.nbytes + self.down.nbytes) // self.gate.shape[0]


@dataclass(frozen=True)
class FusedExperts:
    """Some files stack gate above up in one tensor: gate_up [experts, 2 * width, hidden]."""

    gate_up: QuantizedTensor
    down: QuantizedTensor

    def expert(self, index: int) -> ExpertWeights:
        """See LayerExperts.expert."""
        both = self.gate_up.slab(index)
        width = both.rows // 2
        return ExpertWeights(both.row_range(0, width), both.row_range(width, 2 * width), self.down.slab(index))

    @property
    def experts(self) -> int:
        """See LayerExperts.experts."""
        return self.gate_up.shape[0]

    @property
    def tensors(self) -> tuple[QuantizedTensor, ...]:
        """See LayerExperts.tensors."""
        return self.gate_up, self.down

    @property
    def expert_bytes(self) -> int:
        """See LayerExperts.expert_bytes."""
        return (self.gate_up.nbytes + self.down.nbytes) // self.gate_up.shape[0]


class MappedExperts:
    """All experts in mapped memory: the file's pages are the RAM tier and nothing is copied."""

    def __init__(self, layers: Mapping[int, LayerExperts], kernels: Kernels, warm_up: WarmUp | None = None) -> None:
        """`warm_up` is bringing the experts into memory; it is then this object's to close."""
        self._warm_up = warm_up
        self._layers = dict(layers)
        self._expert_bytes = {number: layer.expert_bytes for number, layer in layers.items()}
        self._keys = {number: [(number, expert) for expert in range(layer.experts)] for number, layer in layers.items()}
        self._multiplier = Multiplier(kernels)
        self._records = self._multiplier.readable({number: records_of(layer) for number, layer in layers.items()})
        self._experts: dict[ExpertKey, ExpertWeights] = {}  # those that were used before
        self._tally = Tally()
        self._noted: list[tuple[int, Sequence[int], ExpertWeights | None, float]] = []  # not yet counted
        self._scores: DecayedScores[ExpertKey] = DecayedScores(_HEAT_DECAY)
        self._first = min(self._layers, default=0)

    @property
    def prefill_tokens(self) -> int | None:
        """See Experts.prefill_tokens."""
        return None

    def forward(
        self,
        layer: int,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None = None,
        beside: bool = False,
    ) -> Tensor:
        """See Experts.forward."""
        return (
            self._of_one_token(layer, x, ids[0], weights[0], shared)
            if len(x) == 1
            else self._of_many(layer, x, ids, weights, shared)
        )

    def share_of(self, layer: int) -> Share | None:
        """See Experts.share_of."""
        return None

    def prepare(self, tokens: int) -> None:
        """See Experts.prepare."""

    def announce(self, layer: int, stream: Tensor) -> None:
        """See Experts.announce."""

    def listen(self, stop: threading.Event | None) -> None:
        """See Experts.listen. Nothing here takes long, but there is an answer as long as somebody may stop it."""
        if self._warm_up is not None:
            self._warm_up.pause(stop is not None)

    def counters(self) -> dict[str, int]:
        """See Experts.counters."""
        self._count_noted()
        return {"ram_experts": self._tally.ram.experts, "ram_bytes": self._tally.ram.nbytes}

    def state(self) -> ExpertsState:
        """See Experts.state."""
        self._count_noted()
        total = sum(self._expert_bytes[number] * layer.experts for number, layer in self._layers.items())
        ram, fastest = self._tally.ram, self._tally.ram_fastest.bytes_per_s
        return ExpertsState(
            places={number: "r" * layer.experts for number, layer in self._layers.items()},
            scores={number: self._scores.scores(keys) for number, keys in self._keys.items()},
            used=dict(self._tally.used),
            tiers=(TierState("RAM", total, total, ram.experts, ram.nbytes, ram.busy_s, fastest),),
        )

    def settle(self) -> None:
        """See Experts.settle."""
        if self._warm_up is not None:
            self._warm_up.wait()

    def close(self) -> None:
        """See Experts.close. The mapping is its file's."""
        if self._warm_up is not None:
            self._warm_up.close()

    def records(self) -> Mapping[int, ExpertRecords]:
        """See TabledExperts.records."""
        return self._records

    @property
    def is_there(self) -> bool:
        """See TabledExperts.is_there."""
        return self._warm_up is None or self._warm_up.is_done

    @property
    def guessed_ahead(self) -> int:
        """See TabledExperts.guessed_ahead."""
        return 0

    def note(
        self,
        layer: int,
        ids: Sequence[int],
        shared: ExpertWeights | None,
        seconds: float,
        in_ram: int | None = None,
    ) -> None:
        """See TabledExperts.note. It is counted later: between two layers, whose weights leave nothing else in the
        processor's caches, counting takes six times as long as all at once."""
        self._noted.append((layer, ids, shared, seconds))
        if len(self._noted) == _MOST_NOTED:
            self._count_noted()

    def _of_one_token(
        self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: ExpertWeights | None
    ) -> Tensor:
        """ids int64 and weights f32 [k]: the sum in their order, then `shared`."""
        chosen = ids.tolist()
        if not self.is_there:
            self._found(layer, chosen)  # which asks the drive for what is new
        started = time.perf_counter()
        y = self._sum(layer, x, ids, weights, shared)
        self.note(layer, chosen, shared, time.perf_counter() - started)
        return y

    def _sum(self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: ExpertWeights | None) -> Tensor:
        """In one call where the kernels can; else each with a row of its own, in the order of rows."""
        if layer in self._records and self._multiplier.fused is not None:
            y, _, _ = self._multiplier.fused.dispatch(x, self._records[layer], ids, weights, shared, False)
            if y is not None:
                return y
        experts = self._found(layer, ids.tolist())
        if shared is not None:
            experts.append(shared)
            weights = torch.cat((weights, torch.ones(1)))
        sums = RowSum(x, weights)
        sums.rows = self._multiplier.sum(sums.x, [sums.call(row, expert) for row, expert in enumerate(experts)])
        return sums.total()

    def _of_many(self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: ExpertWeights | None) -> Tensor:
        """Experts in rising order, each with its tokens."""
        self._count_noted()
        if layer == self._first:
            self._scores.advance(len(x))
        groups = group_by_expert(ids, weights)
        ids_in_order = [group.expert for group in groups]
        experts = self._found(layer, ids_in_order)
        calls = [ExpertCall(expert, group.tokens, group.scales) for expert, group in zip(experts, groups, strict=True)]
        self._count(layer, ids_in_order)
        self._tally.used[layer] = tuple(ids[-1].tolist())
        if shared is not None:
            calls.append(for_all_tokens(shared, len(x)))
        started = time.perf_counter()
        y = self._multiplier.sum(x, calls)
        self._tally.ram.busy_s += time.perf_counter() - started
        return y

    def _found(self, layer: int, ids: Sequence[int]) -> list[ExpertWeights]:
        """Experts of a layer, each made once: describing three matrices takes longer than a narrow model's expert."""
        fresh = [index for index in ids if (layer, index) not in self._experts]
        for index in fresh:
            self._experts[layer, index] = self._layers[layer].expert(index)
        if fresh and not self.is_there:
            for index in fresh:
                expert = self._experts[layer, index]
                advise_needed([expert.gate.data, expert.up.data, expert.down.data])
        return [self._experts[layer, index] for index in ids]

    def _count_noted(self) -> None:
        for layer, ids, shared, seconds in self._noted:
            if layer == self._first:
                self._scores.advance()
            self._count(layer, ids)
            shared_bytes = 0 if shared is None else shared.nbytes
            self._tally.cpu_worked(len(ids) * self._expert_bytes[layer] + shared_bytes, shared_bytes, seconds)
        self._noted.clear()

    def _count(self, layer: int, experts: Sequence[int]) -> None:
        self._tally.ram.add(len(experts), len(experts) * self._expert_bytes[layer])
        self._tally.used[layer] = tuple(experts)
        for expert in experts:
            self._scores.use((layer, expert))


def records_of(layer: LayerExperts) -> ExpertRecords:
    """Of experts that lie in stacks, one expert like the other."""
    first, second = layer.expert(0), layer.expert(min(1, layer.experts - 1))
    gate, up, down = (
        after.address - before.address
        for before, after in ((first.gate, second.gate), (first.up, second.up), (first.down, second.down))
    )
    return ExpertRecords.in_steps(first, layer.experts, (gate, up, down))
