"""A run of paged decoding that is looked at from outside: how long the processor takes for what."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

import torch

from k2lite.load import LoadedModel
from quant.kernels import ExpertCall, ExpertWeights
from quant.kernels.expert_records import ExpertRecords

_ENOUGH_PRODUCTS = 50


@dataclass(frozen=True)
class Product:
    """A call of the kernels: how many experts it was for, and whether something was being copied when it began."""

    experts: int
    seconds: float
    disturbed: bool


class WatchedRun:
    """A run under way, and what it tells about the processor."""

    def __init__(self, loaded: LoadedModel) -> None:
        experts: Any = loaded.model._experts  # whoever records what is used, around those that come and go
        self._loaded, self._forward = loaded, experts.forward
        self._announce, self._leads, self._announced = experts.announce, list[float](), 0.0
        self._tiers = experts._inner._tiers
        self._add, self._products = self._tiers.multiplier.add, list[Product]()
        self._times: list[tuple[int, float, float]] = []
        self.state = loaded.model.experts_state()
        self._counters_before, self._stall_before_s = loaded.model.counters(), self._tiers.tally.stall_s

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at everything that is done in this block."""
        experts, multiplier = self._loaded.model._experts, self._tiers.multiplier
        with ExitStack() as stack:
            stack.enter_context(mock.patch.multiple(experts, forward=self.forward, announce=self.announce))
            stack.enter_context(mock.patch.object(multiplier, "add", self.add))
            if multiplier.fused is not None:
                self._dispatch = multiplier.fused.dispatch
                stack.enter_context(mock.patch.object(multiplier.fused, "dispatch", self.dispatch))
            yield
        self._loaded.model.settle()
        self.state, counters = self._loaded.model.experts_state(), self._loaded.model.counters()
        self.uses = {name: count - self._counters_before[name] for name, count in counters.items()}
        self._stall_s = self._tiers.tally.stall_s - self._stall_before_s

    def forward(self, layer: int, *arguments: Any) -> Any:
        """See Experts.forward."""
        started = time.perf_counter()
        if self._announced:
            self._leads.append(started - self._announced)
            self._announced = 0.0
        y = self._forward(layer, *arguments)
        self._times.append((layer, started, time.perf_counter()))
        return y

    def announce(self, layer: int, stream: torch.Tensor) -> None:
        """See Experts.announce."""
        if layer == self._loaded.model.config.n_dense_layers - 1:
            self._announced = time.perf_counter()
        self._announce(layer, stream)

    def add(self, x: torch.Tensor, calls: Sequence[ExpertCall], y: torch.Tensor) -> None:
        """See Multiplier.add."""
        disturbed = self._is_copying
        started = time.perf_counter()
        self._add(x, calls, y)
        self._products.append(Product(len(calls), time.perf_counter() - started, disturbed))

    def dispatch(
        self,
        x: torch.Tensor,
        records: ExpertRecords,
        ids: torch.Tensor,
        weights: torch.Tensor,
        shared: ExpertWeights | None,
        leave_out: bool,
    ) -> tuple[torch.Tensor | None, int, float]:
        """See FusedKernels.dispatch."""
        disturbed = self._is_copying
        y, in_ram, seconds = self._dispatch(x, records, ids, weights, shared, leave_out)
        if y is not None:
            self._products.append(Product(in_ram + (shared is not None), seconds, disturbed))
        return y, in_ram, seconds

    @property
    def _is_copying(self) -> bool:
        return bool(self._tiers.pool._under_way)

    @property
    def expert_s(self) -> float:
        """Of the processor, for one expert, by products during which nothing was copied, where there are enough."""
        alone = [product for product in self._products if not product.disturbed]
        chosen = alone if len(alone) >= _ENOUGH_PRODUCTS else self._products
        return sum(product.seconds for product in chosen) / sum(product.experts for product in chosen)

    @property
    def layer_s(self) -> float:
        """Beside a layer's routed experts and waiting for them."""
        gaps = [later[1] - sooner[2] for sooner, later in pairwise(self._times) if later[0] > sooner[0]]
        inside = sum(ended - started for _, started, ended in self._times)
        inside -= self._stall_s + sum(product.seconds for product in self._products)
        return statistics.mean(gaps) + inside / len(self._times) + self._shared_s

    @property
    def token_s(self) -> float:
        """What passes between two tokens, in addition to what a layer takes."""
        gaps = [later[1] - sooner[2] for sooner, later in pairwise(self._times) if later[0] < sooner[0]]
        between = [later[1] - sooner[2] for sooner, later in pairwise(self._times) if later[0] > sooner[0]]
        return statistics.mean(gaps) - statistics.mean(between)

    @property
    def lead_s(self) -> float:
        """Of that, what passes behind the guess of the first layer's experts."""
        return max(0.0, statistics.mean(self._leads) + self._shared_s - self.layer_s)

    @property
    def _shared_s(self) -> float:
        return self._loaded.model.config.n_shared_experts * self.expert_s

    def slots(self, tier: str, slot_bytes: int) -> int:
        """Experts of about so many bytes that a tier has room for."""
        capacity = next(found.capacity_bytes for found in self.state.tiers if found.name == tier)
        return round(capacity / slot_bytes)

    @property
    def homes(self) -> dict[int, int]:
        """The card of each layer with experts, counted from 0, as far as cards hold layers."""
        layers = [layer for layer in self._loaded.model._layers if layer.router is not None]
        names = [layer.home.name for layer in layers]
        return {index: int(name.split(":")[1]) for index, name in enumerate(names) if ":" in name}

    @property
    def guessed_right(self) -> float | None:
        """The share of the look-ahead's reads that were used."""
        reads, used = self.state.lookahead_reads, self.state.lookahead_used
        return used / reads if reads else None
