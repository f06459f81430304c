"""The decoder: embedding, layers of attention and feed-forward, final norm, head."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from k2lite.attention import Attention
from k2lite.config import ModelConfig
from k2lite.kv_cache import KvCache
from k2lite.norm import norm_of
from k2lite.rope import Rope
from k2lite.router import Router
from k2lite.routing_trace import RecordingExperts
from offload.experts import Experts, for_all_tokens
from offload.state import ExpertsState
from quant.errors import EngineError, RequestError
from quant.kernels import ExpertWeights, Kernels
from quant.tensor import QuantizedTensor

# Attention to longer chunks is computed in parts of this length.
ATTENTION_TOKENS = 512


@dataclass(frozen=True)
class Layer:
    """One decoder layer. `dense` is the whole feed-forward block of a dense layer, behind `dense_norm`.

    The others have a router, which brings its norm, and perhaps a shared expert, which every token goes to.
    """

    attention: Attention
    dense_norm: Tensor | None = None
    dense: ExpertWeights | None = None
    router: Router | None = None
    shared: ExpertWeights | None = None


class Model:
    """A loaded model. One thread at a time may call `forward`; every cache is its caller's."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: QuantizedTensor,
        layers: Sequence[Layer],
        output_norm: Tensor,
        head: QuantizedTensor,
        experts: Experts,
        kernels: Kernels,
    ) -> None:
        self.config = config
        self._embedding = embedding
        self._layers = list(layers)
        self._output_norm = output_norm
        self._head = head
        self._experts = experts
        self._kernels = kernels
        self._norm = norm_of(kernels)
        self._rope = Rope(config)

    def new_cache(self, capacity: int) -> KvCache:
        """An empty cache for up to `capacity` tokens."""
        return KvCache(self.config, capacity)

    @torch.inference_mode()
    def forward(self, ids: Tensor, cache: KvCache, *, last_only: bool = True) -> Tensor:
        """Run `ids` [T] int64 behind what `cache` holds and append them to it.

        Returns logits [T, vocab] f32, or [1, vocab] of the last position when `last_only`.
        Raises RequestError when the ids are not in the vocabulary or the cache has no room for them, EngineError when
        the weights make NaN or inf of them.
        """
        self._check(ids)
        cache.reserve(len(ids))
        self._experts.prepare(len(ids))
        rotations = self._rope.rotations(cache.length, len(ids))
        x = self._kernels.rows(self._embedding, ids)
        for index, layer in enumerate(self._layers):
            x = self._layer(index, layer, x, cache, rotations)
        cache.advance(len(ids))
        if last_only:
            x = x[-1:]
        x = self._norm(x, self._output_norm, self.config.rms_eps)
        # Kernels convert activations to blocks of 8 bits, in which NaN would become some number. A sum shows it too.
        if not math.isfinite(float(x.sum())):
            raise EngineError("the model computes NaN or inf: the file may be damaged, fetch or quantize it again")
        return self._kernels.linear(x, self._head)

    def listen(self, stop: threading.Event | None) -> None:
        """See offload.experts.Experts.listen."""
        self._experts.listen(stop)

    def experts_state(self) -> ExpertsState:
        """Where the experts are and what was done (offload.experts.Experts.state)."""
        return self._experts.state()

    @property
    def prefill_tokens(self) -> int | None:
        """How many tokens of a prompt are best given at once; None where that does not matter."""
        return self._experts.prefill_tokens

    def record_routing(self, path: Path) -> None:
        """From now on write down which experts generated tokens go to. Raises OutputError, RequestError."""
        layers = [index for index, layer in enumerate(self._layers) if layer.router is not None]
        if not layers:
            raise RequestError("--record-routing has no effect: this model has no experts; leave it out")
        self._experts = RecordingExperts(self._experts, layers, path)

    def settle(self) -> None:
        """See offload.experts.Experts.settle."""
        self._experts.settle()

    def close(self) -> None:
        """End what the experts do in the background. Safe to call twice."""
        self._experts.close()

    def counters(self) -> dict[str, int]:
        """Expert calls and bytes per tier since loading (offload.experts.Experts.counters)."""
        return self._experts.counters()

    def _check(self, ids: Tensor) -> None:
        if ids.numel() == 0:
            raise RequestError("there are no tokens to process: the prompt is empty")
        least, most = (int(limit) for limit in ids.aminmax())
        if least < 0 or most >= self.config.vocab_size:
            raise RequestError(f"token ids must be between 0 and {self.config.vocab_size - 1}, got {least} to {most}")

    def _layer(self, index: int, layer: Layer, x: Tensor, cache: KvCache, rotations: tuple[Tensor, Tensor]) -> Tensor:
        x = _attend(layer.attention, x, index, cache, rotations)
        if layer.router is not None:
            h, routing = layer.router(x)
            self._experts.announce(index, x)
            return self._experts.forward(index, h, routing.ids, routing.weights, layer.shared).add_(x)
        assert layer.dense_norm is not None and layer.dense is not None
        self._experts.announce(index, x)
        h = self._norm(x, layer.dense_norm, self.config.rms_eps)
        return self._kernels.experts(h, [for_all_tokens(layer.dense, len(h))]).add_(x)


def _attend(attention: Attention, x: Tensor, index: int, cache: KvCache, rotations: tuple[Tensor, Tensor]) -> Tensor:
    """Attention to a long chunk in parts: what it keeps in memory between its steps would grow with the chunk."""
    if len(x) <= ATTENTION_TOKENS:
        return attention(x, index, cache, rotations)
    parts, start = [], cache.length
    cosines, sines = (part.split(ATTENTION_TOKENS) for part in rotations)
    try:
        for part, *turned in zip(x.split(ATTENTION_TOKENS), cosines, sines, strict=True):
            parts.append(attention(part, index, cache, (turned[0], turned[1])))
            cache.advance(len(part))
    finally:
        cache.truncate(start)  # of this layer only: the chunk is not yet through
    return torch.cat(parts)
