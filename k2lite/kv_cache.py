"""The latent cache of multi-head latent attention: 576 values per token and layer in K2."""

from collections.abc import Sequence

import torch
from torch import Tensor

from k2lite.config import ModelConfig
from quant.errors import RequestError


def cache_bytes(config: ModelConfig, tokens: int) -> int:
    """What a cache of so many tokens takes when all of them are there."""
    return 4 * config.latent_dim * config.n_layers * tokens


class KvCache:
    """Latents and rotary keys of one conversation, [layers][capacity, latent_dim] f32.

    Memory is reserved for `capacity` tokens but taken by the system only as positions are written.
    A forward pass writes every layer at `length` and then calls `advance`.
    """

    def __init__(self, config: ModelConfig, capacity: int, devices: Sequence[torch.device] = ()) -> None:
        """`devices` of the layers, one each; without them all are in RAM. Raises RequestError."""
        self.capacity = capacity
        self.length = 0
        try:
            self._layers = [
                torch.empty(capacity, config.latent_dim, device=device)
                for device in devices or [torch.device("cpu")] * config.n_layers
            ]
        except RuntimeError as error:  # torch's answer when the system refuses to reserve memory
            size_gb = cache_bytes(config, capacity) / 1e9
            raise RequestError(
                f"a context of {capacity} tokens takes {size_gb:.1f} GB of memory, which the system has not got: "
                "ask for a smaller one (--ctx)"
            ) from error

    @property
    def nbytes(self) -> int:
        """Bytes reserved for all layers."""
        return sum(layer.numel() * layer.element_size() for layer in self._layers)

    def reserve(self, tokens: int) -> None:
        """Check that `tokens` more positions fit. Raises RequestError with the numbers."""
        if self.length + tokens > self.capacity:
            raise RequestError(
                f"{self.length + tokens} tokens do not fit the context of {self.capacity}: "
                "raise --ctx or shorten the conversation"
            )

    def layer(self, layer: int) -> Tensor:
        """All positions of a layer, used or not: [capacity, latent_dim]."""
        return self._layers[layer]

    def write(self, layer: int, latents: Tensor) -> Tensor:
        """Store `latents` [T, latent_dim] behind what is there; returns all positions so far [S, latent_dim]."""
        end = self.length + latents.shape[0]
        self._layers[layer][self.length : end] = latents
        return self._layers[layer][:end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` positions as written in every layer."""
        self.length += tokens

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut a cache of {self.length} tokens to {length}")
        self.length = length
