"""The latent cache of multi-head latent attention: 576 values per token and layer in K2."""

from collections.abc import Sequence

import torch
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.home import RAM, Home
from quant.errors import RequestError


def cache_bytes(config: ModelConfig, tokens: int, layers: int | None = None) -> int:
    """What so many tokens take in RAM when all of them are there, for all layers or for so many."""
    return RAM.cache_type.itemsize * config.latent_dim * (config.n_layers if layers is None else layers) * tokens


class KvCache:
    """Latents and rotary keys of one conversation, [layers][capacity, latent_dim], each as its layer's home keeps it.

    In RAM, memory is reserved for `capacity` tokens but taken by the system only as positions are written. On a card
    all of it is taken, and what is not written, or was cut off, is zero: numbers, whatever a product over more
    positions than there are tokens makes of them. A forward pass writes every layer at `length` and then calls
    `advance`.
    """

    def __init__(self, config: ModelConfig, capacity: int, homes: Sequence[Home] = ()) -> None:
        """`homes` of the layers, one each; without them all are in RAM. Raises RequestError."""
        self.capacity = capacity
        self.length = 0
        homes = homes or [RAM] * config.n_layers
        self._layers: list[Tensor] = []
        for home in homes:
            try:
                self._layers.append(_positions(home, capacity, config.latent_dim))
            except RuntimeError as error:  # torch's answer when the system, or the card, refuses to reserve memory
                raise _no_room(config, capacity, homes, home) from error
        self._padded = [layer for layer, home in zip(self._layers, homes, strict=True) if home.is_card]

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
        """Store `latents` [T, latent_dim] f32 behind what is there; returns all positions so far [S, latent_dim]."""
        end = self.length + latents.shape[0]
        self._layers[layer][self.length : end] = latents
        return self._layers[layer][:end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` positions as written in every layer."""
        self.length += tokens

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        before = self.length
        self.rewind(length)
        for layer in self._padded:
            layer[length:before] = 0

    def rewind(self, length: int) -> None:
        """Go back to `length`, to write the same positions in another layer: what is there stays."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut a cache of {self.length} tokens to {length}")
        self.length = length


def _no_room(config: ModelConfig, capacity: int, homes: Sequence[Home], full: Home) -> RequestError:
    """Says what the cache takes where there was no room for it."""
    layers = [home for home in homes if home.device == full.device]
    nbytes = sum(home.cache_type.itemsize for home in layers) * config.latent_dim * capacity
    where, who = (f"of {full.name}", "it") if full.is_card else ("of memory", "the system")
    return RequestError(
        f"a context of {capacity} tokens takes {nbytes / 1e9:.1f} GB {where}, which {who} has not got: "
        "ask for a smaller one (--ctx)"
    )


def _positions(home: Home, capacity: int, latent_dim: int) -> Tensor:
    make = torch.zeros if home.is_card else torch.empty
    return make(capacity, latent_dim, dtype=home.cache_type, device=home.device)
