"""The decoder: embedding, layers of attention and feed-forward, final norm, head."""

import math
import threading
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.direct_pass import direct_pass
from k2lite.home import RAM, Home
from k2lite.kv_cache import KvCache
from k2lite.layer import DecoderLayer, Head, Rotations
from k2lite.rope import Rope
from k2lite.routing_trace import RecordingExperts
from offload.experts import Experts
from offload.state import ExpertsState
from quant.errors import EngineError, RequestError
from quant.kernels import Kernels
from quant.tensor import QuantizedTensor


class Model:
    """A loaded model. One thread at a time may call `forward`; every cache is its caller's."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: QuantizedTensor,
        layers: Sequence[DecoderLayer],
        head: Head,
        experts: Experts,
        kernels: Kernels,
    ) -> None:
        self.config = config
        self._embedding = embedding
        self._layers = list(layers)
        self._head = head
        self._experts = experts
        self._kernels = kernels
        self._rope = Rope(config)
        self._direct = direct_pass(self._layers, experts, kernels)
        self._devices = {layer.home.device for layer in self._layers}

    def new_cache(self, capacity: int) -> KvCache:
        """An empty cache for up to `capacity` tokens, each layer's part beside the layer."""
        return KvCache(self.config, capacity, [layer.home for layer in self._layers])

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
        rotations = self._rotations(cache.length, len(ids))
        x = self._kernels.rows(self._embedding, ids)
        home = RAM
        if len(ids) == 1 and self._direct is not None and self._direct.is_ready(self._experts):
            x = self._direct.forward(x, cache, rotations[home.device], self._experts)
        else:
            x, home = self._layer_by_layer(x, cache, rotations)
        cache.advance(len(ids))
        if last_only:
            x = x[-1:]
        x = self._head.norm(x if self._head.home is home else self._head.home.receive(x))
        # Kernels convert activations to blocks of 8 bits, in which NaN would become some number. A sum shows it too.
        if not math.isfinite(float(x.sum())):
            raise EngineError("the model computes NaN or inf: the file may be damaged, fetch or quantize it again")
        return self._head.logits(x)

    def _layer_by_layer(
        self, x: Tensor, cache: KvCache, rotations: dict[torch.device, Rotations]
    ) -> tuple[Tensor, Home]:
        """The stream x [T, hidden] behind all layers, and where it is then."""
        before = RAM
        for home, layers in groupby(enumerate(self._layers), key=lambda numbered: numbered[1].home):
            if home is not before:
                x = home.receive(x)
            with home.active():
                for index, layer in layers:
                    x = layer.forward(index, x, cache, rotations[home.device], self._experts)
            before = home
        return x, before

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

    def _rotations(self, start: int, count: int) -> dict[torch.device, Rotations]:
        """The angles of positions as cosines and sines, on every device that has a layer."""
        cosines, sines = self._rope.rotations(start, count)
        return {device: (cosines.to(device), sines.to(device)) for device in self._devices}

    def _check(self, ids: Tensor) -> None:
        if ids.numel() == 0:
            raise RequestError("there are no tokens to process: the prompt is empty")
        least, most = (int(limit) for limit in ids.aminmax())
        if least < 0 or most >= self.config.vocab_size:
            raise RequestError(f"token ids must be between 0 and {self.config.vocab_size - 1}, got {least} to {most}")
