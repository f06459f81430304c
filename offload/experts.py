"""The one door to the routed experts: forward(layer, x, ids, weights) -> y.

offload.mapped_experts has those of models that memory holds, offload.tiered the others.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from offload.pool_device import Share
from offload.state import ExpertsState
from quant.kernels import ExpertCall, ExpertWeights
from quant.kernels.expert_records import ExpertRecords


class Experts(Protocol):
    """Multiplies tokens by the experts that the router chose for them."""

    def forward(
        self,
        layer: int,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None = None,
        beside: bool = False,
    ) -> Tensor:
        """Weighted sum of expert outputs, and of that of `shared`, which every token goes to with weight 1.

        `x` [T, hidden] f32, `ids` [T, k] int64, `weights` [T, k] f32 -> [T, hidden] f32. Not thread-safe. With `beside`
        it is one token, and the caller adds what `share_of` gives by itself.
        """

    def share_of(self, layer: int) -> Share | None:
        """The part of one token's sum that the layer's card computes without asking the host, which can be recorded;
        None where there is none."""

    def prepare(self, tokens: int) -> None:
        """A pass of so many tokens through all layers begins: `forward` will be called for each layer with experts."""

    def announce(self, layer: int, stream: Tensor) -> None:
        """The stream [T, hidden] f32 in front of a layer's experts, before `forward` is called for that layer; also in
        front of a layer without experts. Of a chunk it may be left out.

        Only to guess what later layers will ask for: nothing that is computed depends on it.
        """

    def listen(self, stop: threading.Event | None) -> None:
        """From now on `forward` may raise Stopped soon after `stop` was set. None: nobody will stop it."""

    def counters(self) -> dict[str, int]:
        """Work done so far: `{tier}_experts` (expert calls) and `{tier}_bytes` (weight bytes read) per tier."""

    def state(self) -> ExpertsState:
        """Where experts are and what was done, as of now."""

    @property
    def prefill_tokens(self) -> int | None:
        """How many tokens of a prompt are best given at once; None where that does not matter."""

    def settle(self) -> None:
        """Wait until nothing runs in the background any more: for measurements, when nobody listens for a stop."""

    def close(self) -> None:
        """End what runs in the background. Safe to call twice."""


@runtime_checkable
class TabledExperts(Protocol):
    """Experts whose places native code may look up, and multiply those that are in RAM without asking."""

    def records(self) -> Mapping[int, ExpertRecords]:
        """Where those of each layer lie, always as of now; empty where the kernels do not read it."""

    @property
    def is_there(self) -> bool:
        """Whether what is in the records is in memory by now, so that nobody has to fetch it before it is used."""

    @property
    def guessed_ahead(self) -> int:
        """How many of the experts that the next layer will probably ask for `forward` wants to know of when one is not
        in RAM, while there is still a layer's time to read it."""

    def note(
        self,
        layer: int,
        ids: Sequence[int],
        shared: ExpertWeights | None,
        seconds: float,
        in_ram: int | None = None,
    ) -> None:
        """A token went to these experts of a layer, `in_ram` of which are in RAM (None: all), the others with the card
        that shares them, and to `shared`; what RAM has took so long: what `forward` would count."""


def for_all_tokens(weights: ExpertWeights, tokens: int) -> ExpertCall:
    """A call of a matrix that every one of `tokens` tokens goes to, with weight 1."""
    return ExpertCall(weights, torch.arange(tokens), torch.ones(tokens))
