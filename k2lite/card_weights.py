"""Parts of a model on a card: each weight is copied there once, from where the file has it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from k2lite.card_attention import CardAttention, CardAttentionWeights
from k2lite.card_layer import CardFeedForward, CardHead, CardLayer, CardRouter
from k2lite.card_step import CardStep
from k2lite.home import Home
from k2lite.weights import WeightReader, attention_weights, feed_forward, head_weight, router_weights
from quant.errors import StoreError, UnsupportedError
from quant.kernels.card import CardKernels, upload
from quant.tensor import QuantizedTensor


@dataclass(frozen=True)
class CardBuilder:
    """See Builder. Raises StoreError when the card has no room. `step` is shared by all layers of the card."""

    home: Home
    step: CardStep
    kernels: CardKernels

    def layer(self, reader: WeightReader, index: int) -> CardLayer:
        """See Builder.layer."""
        with self.home.active():
            try:
                return self._layer(reader, index)
            except torch.OutOfMemoryError as error:
                raise self._full(f"layer {index}") from error

    def head(self, reader: WeightReader) -> CardHead:
        """See Builder.head."""
        with self.home.active():
            try:
                norm = reader.floats("output_norm.weight").to(self.home.device)
                weight = upload(head_weight(reader), self.home.device)
            except torch.OutOfMemoryError as error:
                raise self._full("the head") from error
        return CardHead(self.home, weight, norm, reader.config.rms_eps, self.kernels)

    def _layer(self, reader: WeightReader, index: int) -> CardLayer:
        config, device = reader.config, self.home.device
        weights = attention_weights(reader, index)
        self._check_served(vars(weights).values(), index)
        attention = CardAttention(CardAttentionWeights.on(device, weights), config, self.kernels)
        norm = reader.floats(f"blk.{index}.ffn_norm.weight").to(device)
        if config.is_dense(index):
            dense = self._feed_forward(reader, index, "")
            return CardLayer(self.home, self.step, attention, config.rms_eps, dense_norm=norm, dense=dense)
        shared = None
        if config.n_shared_experts:
            shared = self._feed_forward(reader, index, "_shexp")
        weight, bias = router_weights(reader, index)
        router = CardRouter(norm, weight.to(device), None if bias is None else bias.to(device), config)
        return CardLayer(self.home, self.step, attention, config.rms_eps, router=router, shared=shared)

    def _feed_forward(self, reader: WeightReader, index: int, suffix: str) -> CardFeedForward:
        weights = feed_forward(reader, index, suffix)
        self._check_served((weights.gate, weights.up, weights.down), index)
        return CardFeedForward.on(self.home.device, weights, self.kernels)

    def _check_served(self, weights: Iterable[object], index: int) -> None:
        """Raises UnsupportedError when some matrix among `weights` cannot be multiplied here."""
        for w in weights:
            if isinstance(w, QuantizedTensor) and not self.kernels.serves(w.type):
                raise UnsupportedError(
                    f"cards cannot multiply {w.type} weights, which layer {index} has: leave out --devices, or "
                    "quantize with another --type"
                )

    def _full(self, what: str) -> StoreError:
        free_bytes, total_bytes = torch.cuda.mem_get_info(self.home.device)
        return StoreError(
            f"{self.home.name} has no room for {what}: {free_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB are free; "
            "end what else uses it, or give it less (--vram-budget)"
        )
