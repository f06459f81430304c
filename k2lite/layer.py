"""What a model is made of: decoder layers and the head, each in a home of its own."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from k2lite.attention import Attention
from k2lite.home import RAM, Home
from k2lite.kv_cache import KvCache
from k2lite.norm import Norm
from k2lite.router import Router, Routing
from offload.chunk_in_ram import ATTENTION_TOKENS
from offload.experts import Experts, for_all_tokens
from quant.kernels import ExpertWeights, Kernels
from quant.tensor import QuantizedTensor

Rotations = tuple[Tensor, Tensor]


class Choice(Protocol):
    """Chooses experts, as a Router does."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Routing]:
        """norm(`x` [T, hidden] f32) and where that goes."""


class Attend(Protocol):
    """The attention of one layer."""

    def __call__(self, x: Tensor, layer: int, cache: KvCache, rotations: Rotations) -> Tensor:
        """Attend from norm(`x` [T, hidden]) to everything cached and to itself; returns x + that, [T, hidden]."""


class DecoderLayer(Protocol):
    """One layer: attention, then a dense block or experts. `router` is None where it has no experts."""

    @property
    def home(self) -> Home:
        """Where it computes, and has its part of the cache."""

    @property
    def router(self) -> Choice | None:
        """Who chooses among its experts; takes the stream on any device."""

    def forward(self, index: int, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        """The stream behind this layer, the `index`-th, x [T, hidden] f32 -> [T, hidden], all on its home's device.

        `x` may be overwritten.
        """


class Head(Protocol):
    """The last norm and the product with the vocabulary."""

    @property
    def home(self) -> Home:
        """Where it computes."""

    def norm(self, x: Tensor) -> Tensor:
        """x [T, hidden] -> [T, hidden], on its home's device."""

    def logits(self, normed: Tensor) -> Tensor:
        """[T, hidden] -> [T, vocabulary] f32, on the host."""


@dataclass(frozen=True)
class Layer:
    """A layer that the processor computes. `dense` is the feed-forward block of a dense layer, behind `dense_norm`.

    The others have a router, which brings its norm, and perhaps a shared expert, which every token goes to.
    """

    attention: Attention
    kernels: Kernels
    norm: Norm
    norm_eps: float
    dense_norm: Tensor | None = None
    dense: ExpertWeights | None = None
    router: Router | None = None
    shared: ExpertWeights | None = None
    home: Home = RAM

    def forward(self, index: int, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        """See DecoderLayer.forward."""
        x = attend_in_parts(self.attention, x, index, cache, rotations)
        if self.router is not None:
            h, routing = self.router(x)
            experts.announce(index, x)
            return experts.forward(index, h, routing.ids, routing.weights, self.shared).add_(x)
        assert self.dense_norm is not None and self.dense is not None
        experts.announce(index, x)
        h = self.norm(x, self.dense_norm, self.norm_eps)
        return self.kernels.experts(h, [for_all_tokens(self.dense, len(h))]).add_(x)


@dataclass(frozen=True)
class HostHead:
    """A head that the processor computes."""

    weight: QuantizedTensor
    norm_weight: Tensor
    norm_eps: float
    rms_norm: Norm
    kernels: Kernels
    home: Home = RAM

    def norm(self, x: Tensor) -> Tensor:
        """See Head.norm."""
        return self.rms_norm(x, self.norm_weight, self.norm_eps)

    def logits(self, normed: Tensor) -> Tensor:
        """See Head.logits."""
        return self.kernels.linear(normed, self.weight)


def attend_in_parts(attention: Attend, x: Tensor, index: int, cache: KvCache, rotations: Rotations) -> Tensor:
    """Attention to a long chunk in parts: what it keeps in memory between its steps would grow with the chunk.

    `x` may be overwritten, and be what is returned.
    """
    if len(x) <= ATTENTION_TOKENS:
        return attention(x, index, cache, rotations)
    start = cache.length
    cosines, sines = (part.split(ATTENTION_TOKENS) for part in rotations)
    try:
        for part, *turned in zip(x.split(ATTENTION_TOKENS), cosines, sines, strict=True):
            part.copy_(attention(part, index, cache, (turned[0], turned[1])))
            cache.advance(len(part))
    finally:
        cache.rewind(start)  # of this layer only: the chunk is not yet through
    return x
