"""A decoder layer on a card: attention, router, shared expert and dense block there, experts wherever they are.

What a layer's experts need crosses to the host in one copy, and their sum comes back in one; meanwhile the card has the
shared expert to do. For one token both parts, in front of the crossing and beside it, are recordings.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from k2lite.card_attention import CardAttention
from k2lite.card_crossing import ChunkCrossing, add_in_parts
from k2lite.card_parts import LOGIT_TOKENS, feed_forward_tokens
from k2lite.card_step import CardStep, PlainRecording, WindowRecording
from k2lite.config import ModelConfig
from k2lite.home import Home
from k2lite.kv_cache import KvCache
from k2lite.layer import Rotations, attend_in_parts
from k2lite.norm import rms_norm
from k2lite.router import Routing, route
from offload.experts import Experts
from offload.pool_device import Share
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

    def add_to(self, x: Tensor, norm: Tensor, eps: float) -> None:
        """Adds to x [T, hidden] what this makes of its norm, in parts of tokens.

        The norm is made for it: to make one again costs less than to keep one.
        """
        for part in x.split(feed_forward_tokens(self.gate.rows)):
            part.add_(self(rms_norm(part, norm, eps)))


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
    step: CardStep
    attention: CardAttention
    norm_eps: float
    dense_norm: Tensor | None = None
    dense: CardFeedForward | None = None
    router: CardRouter | None = None
    shared: CardFeedForward | None = None
    _in_front: WindowRecording = field(default_factory=WindowRecording)
    _beside: PlainRecording = field(default_factory=PlainRecording)
    _beside_with_share: PlainRecording = field(default_factory=PlainRecording)

    def forward(self, index: int, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        """See DecoderLayer.forward."""
        forward = self._one if len(x) == 1 else self._many
        return forward(index, x, cache, rotations, experts)

    def _one(self, index: int, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        """One token, whose stream stays in the buffer of its card from layer to layer."""
        step = self.step
        step.begin(x, cache.length, rotations)
        self._in_front.replay(step.recorder, self.attend, cache, index)
        if self.router is None:
            experts.announce(index, step.middle.cpu())
            self._beside.replay(step.recorder, self.feed_forward)
            return step.stream
        step.send()
        share = experts.share_of(index)
        beside = self._beside if share is None else self._beside_with_share
        beside.replay(step.recorder, lambda: self.feed_forward(share))
        stream, normed, ids, weights = step.arrived()
        experts.announce(index, stream)
        y = experts.forward(index, normed, ids, weights, beside=share is not None)
        return step.stream.add_(y.to(x.device, non_blocking=True))

    def attend(self, window: Tensor, stream: Tensor | None = None) -> None:
        """From `step.stream`, or another one, to what `step.packed` has, to be recorded."""
        step = self.step
        stream = step.stream if stream is None else stream
        x = self.attention.at(stream, step.position, window, (step.cosines, step.sines))
        if self.router is None:
            step.middle.copy_(x)
        else:
            step.packed.copy_(_packed(x, *self.router(x)))

    def feed_forward(self, share: Share | None = None) -> None:
        """From `step.packed` to `step.stream`, to be recorded: the dense block, or what there is beside the experts of
        the host, of the others only a `share`."""
        step = self.step
        if self.dense is not None:
            assert self.dense_norm is not None
            step.stream.copy_(step.middle + self.dense(rms_norm(step.middle, self.dense_norm, self.norm_eps)))
        elif self.shared is not None:
            step.stream.copy_(step.middle + self.shared(step.normed))
        else:
            step.stream.copy_(step.middle)
        if share is not None:
            step.stream.add_(share(step.normed.contiguous(), step.ids.to(torch.int64), step.weights.contiguous()))

    def _many(self, index: int, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        """A chunk of a prompt, in parts of tokens where that costs next to nothing: only the stream is there in whole.

        It is not announced: a chunk goes to most experts.
        """
        x = attend_in_parts(self.attention, x, index, cache, rotations)
        if self.router is None:
            assert self.dense is not None and self.dense_norm is not None
            self.dense.add_to(x, self.dense_norm, self.norm_eps)
            return x
        crossing = ChunkCrossing(x, self.router, self.step.used)
        if self.shared is not None:
            # queued: the card works while the host waits for what crosses, and multiplies
            self.shared.add_to(x, self.router.norm, self.norm_eps)
        add_in_parts(x, experts.forward(index, *crossing.arrived()))
        return x


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
            return torch.cat([self.kernels.linear(part, self.weight).cpu() for part in normed.split(LOGIT_TOKENS)])


def _packed(x: Tensor, h: Tensor, routing: Routing) -> Tensor:
    """Stream, norm and routing in one row of floats for each token: experts' numbers are far below 2^24, up to which
    floats are exact."""
    return torch.cat([x, h, routing.weights, routing.ids.float()], dim=1)
