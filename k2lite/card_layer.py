"""A decoder layer on a card: attention, router, shared expert and dense block there, experts wherever they are.

What a layer's experts need crosses to the host in one copy, and their sum comes back in one; meanwhile the card has the
shared expert to do.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from k2lite.card_attention import CardAttention
from k2lite.config import ModelConfig
from k2lite.home import Home
from k2lite.kv_cache import KvCache
from k2lite.layer import Rotations, attend_in_parts
from k2lite.norm import rms_norm
from k2lite.router import Routing, route
from offload.experts import Experts
from quant.kernels import ExpertWeights
from quant.kernels.card import CardKernels, CardTensor, upload


@dataclass(frozen=True)
class CardFeedForward:
    """down(silu(gate x) * up x) on a card: a dense block or a shared expert."""

    gate: CardTensor
    up: CardTensor
    down: CardTensor
    kernels: CardKernels

    @classmethod
    def on(cls, device: torch.device, w: ExpertWeights, kernels: CardKernels) -> "CardFeedForward":
        """A copy of weights that lie in RAM."""
        return cls(upload(w.gate, device), upload(w.up, device), upload(w.down, device), kernels)

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, hidden] -> [T, hidden]."""
        linear = self.kernels.linear
        return linear(F.silu(linear(x, self.gate)) * linear(x, self.up), self.down)


@dataclass(frozen=True)
class CardRouter:
    """The norm and the router of one layer: float32, as on the host."""

    norm: Tensor
    weight: Tensor
    bias: Tensor | None
    config: ModelConfig

    def __call__(self, x: Tensor) -> tuple[Tensor, Routing]:
        """norm(`x` [T, hidden] f32), which may lie on any device, and where that goes, all on the card."""
        normed = rms_norm(x.to(self.weight.device), self.norm, self.config.rms_eps)
        return normed, route(F.linear(normed, self.weight), self.bias, self.config)


@dataclass(frozen=True)
class CardLayer:
    """See DecoderLayer. Either `dense` behind `dense_norm`, or a router and perhaps a shared expert."""

    home: Home
    attention: CardAttention
    norm_eps: float
    dense_norm: Tensor | None = None
    dense: CardFeedForward | None = None
    router: CardRouter | None = None
    shared: CardFeedForward | None = None

    def forward(self, index: int, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        """See DecoderLayer.forward."""
        with self.home.active():
            return self._forward(index, x, cache, rotations, experts)

    def _forward(self, index: int, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        x = attend_in_parts(self.attention, x, index, cache, rotations)
        if self.router is None:
            assert self.dense is not None and self.dense_norm is not None
            if len(x) == 1:
                experts.announce(index, x.cpu())
            return x + self.dense(rms_norm(x, self.dense_norm, self.norm_eps))
        h, routing = self.router(x)
        crossing = _Crossing.of(x, h, routing)
        if self.shared is not None:
            x = x + self.shared(h)  # queued: the card works while the host waits for what crosses, and multiplies
        stream, normed, ids, weights = crossing.arrived()
        experts.announce(index, stream)
        return x + experts.forward(index, normed, ids, weights).to(x.device, non_blocking=True)


@dataclass(frozen=True)
class CardHead:
    """See Head."""

    home: Home
    weight: CardTensor
    norm_weight: Tensor
    norm_eps: float
    kernels: CardKernels

    def norm(self, x: Tensor) -> Tensor:
        """See Head.norm."""
        return rms_norm(x, self.norm_weight, self.norm_eps)

    def logits(self, normed: Tensor) -> Tensor:
        """See Head.logits."""
        with self.home.active():
            return self.kernels.linear(normed, self.weight).cpu()


class _Crossing:
    """The stream, its norm and the routing on their way to the host, as one row of floats for each token."""

    def __init__(self, packed: Tensor, hidden: int, used: int, done: "torch.cuda.Event | None") -> None:
        self._packed, self._hidden, self._used, self._done = packed, hidden, used, done

    @classmethod
    def of(cls, x: Tensor, h: Tensor, routing: Routing) -> "_Crossing":
        # Experts' numbers are far below 2^24, up to which floats are exact.
        packed = torch.cat([x, h, routing.weights, routing.ids.float()], dim=1)
        if not packed.is_cuda:
            return cls(packed, x.shape[1], routing.ids.shape[1], None)
        arrived = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        arrived.copy_(packed, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(packed.device))
        return cls(arrived, x.shape[1], routing.ids.shape[1], done)

    def arrived(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Waits; then stream and norm [T, hidden], ids int64 and weights [T, used], on the host."""
        if self._done is not None:
            self._done.synchronize()
        x, h, weights, ids = self._packed.split([self._hidden, self._hidden, self._used, self._used], dim=1)
        return x.contiguous(), h.contiguous(), ids.to(torch.int64), weights.contiguous()
