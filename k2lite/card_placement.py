"""Which parts of a model go to which card: layers first, by contiguous ranges, experts into what is left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from k2lite.config import ModelConfig
from k2lite.home import Home
from k2lite.layer import HostHead, Layer
from k2lite.model_bytes import SizedTensor, model_bytes
from k2lite.recording import CarefulRecorder, recorder_for
from k2lite.weights import Builder, HostBuilder, TensorSource, WeightReader
from offload.card_buffers import SHORTEST_CHUNK
from offload.card_devices import PoolCard, card_kernels, facts_of, present_cards
from offload.memory_options import CardSpec
from offload.model_bytes import ModelBytes
from offload.placement import place_layers
from quant.errors import K2Error
from quant.kernels import Kernels
from quant.tensor import QuantizedTensor
from quant.types import BlockType

# Of a cache beside a card's kernels: bfloat16 has float32's range, so that no latent is too large for it.
CARD_CACHE_TYPE = torch.bfloat16


@dataclass(frozen=True)
class CardPlacement:
    """The cards, what each holds, and how many of the bytes that every token needs lie there rather than in RAM.

    `types` are those of the model's weights. `notes` are for the user: what turns out about the cards, as long as they
    are used. `chunk_tokens` and `sending` as in offload.placement.CardPlaces; where RAM has room for less, that.
    """

    cards: tuple[PoolCard, ...] = ()
    resident_bytes: int = 0
    types: frozenset[BlockType] = frozenset()
    notes: list[str] = field(default_factory=list)
    chunk_tokens: int | None = None
    sending: int = 0

    @property
    def has_layers(self) -> bool:
        """Whether any card has room for a layer."""
        return any(card.layers for card in self.cards)

    def layers_in_ram(self, config: ModelConfig) -> int:
        """Layers that take RAM for their cache: virtual cards' do too."""
        elsewhere = (card.layers for card in self.cards if card.spec.kind != "virtual")
        return config.n_layers - sum(layer < config.n_layers for held in elsewhere for layer in held)

    def builders(self, config: ModelConfig, kernels: Kernels) -> list[Builder]:
        """Who makes each layer, and the head behind them. Raises UnsupportedError where cards have no kernels."""
        builders: list[Builder] = [HostBuilder(kernels)] * (config.n_layers + 1)
        for card in self.cards:
            if card.layers:
                builder = self._builder(card, config, kernels)
                builders[card.layers.start : card.layers.stop] = [builder] * len(card.layers)
        return builders

    def _builder(self, card: PoolCard, config: ModelConfig, kernels: Kernels) -> Builder:
        if card.spec.kind == "virtual":
            return VirtualBuilder(kernels, Home(card.name, card.device))
        from k2lite.card_step import CardStep
        from k2lite.card_weights import CardBuilder  # where no card is, its attention need not be loaded

        home = Home(card.name, card.device, is_card=True, cache_type=CARD_CACHE_TYPE)
        recorder = CarefulRecorder(card.name, recorder_for(card.device), self.notes.append)
        return CardBuilder(home, CardStep(card.device, config, recorder), card_kernels(self.types))


class PlacedTensor(Protocol):
    """What has to be known of a tensor before it is read."""

    @property
    def type(self) -> BlockType:
        """Of all its weights."""

    @property
    def weights(self) -> int:
        """How many."""

    @property
    def nbytes(self) -> int:
        """Bytes of them all."""


def place_on_cards(
    tensors: Mapping[str, PlacedTensor], config: ModelConfig, named: Sequence[CardSpec], context_tokens: int
) -> CardPlacement:
    """What of a model's tensors goes to the cards that are `named`. Touches no card but to ask what is free.

    Raises RequestError.
    """
    sized = [SizedTensor(name, tensor.weights, tensor.nbytes) for name, tensor in tensors.items()]
    model = model_bytes(sized, config, config.name or "")
    specs = present_cards(named, model.buffers.bytes_of(SHORTEST_CHUNK, context_tokens))
    found = place_layers([facts_of(spec) for spec in specs], model, context_tokens)
    cards = (
        PoolCard(spec, max(0, place.free_bytes), held, place.cache_bytes + place.buffer_bytes)
        for spec, place, held in zip(specs, found.places, found.ranges, strict=True)
    )
    return CardPlacement(
        tuple(cards),
        resident_bytes=sum(_resident_bytes(model, held) for held in found.ranges),
        types=frozenset(tensor.type for tensor in tensors.values()),
        chunk_tokens=found.chunk_tokens,
        sending=found.sending,
    )


def _resident_bytes(model: ModelBytes, held: Sequence[int]) -> int:
    """Of the layers `held`, and of the head, which comes behind them."""
    parts = [*(layer.resident for layer in model.layers), model.outer_bytes]
    return sum(parts[part] for part in held)


@dataclass(frozen=True)
class VirtualBuilder:
    """Parts on a virtual card: copies of their weights, which the processor multiplies."""

    kernels: Kernels
    home: Home

    def layer(self, reader: WeightReader, index: int) -> Layer:
        """See Builder.layer."""
        return HostBuilder(self.kernels, self.home).layer(_copying(reader), index)

    def head(self, reader: WeightReader) -> HostHead:
        """See Builder.head."""
        return HostBuilder(self.kernels, self.home).head(_copying(reader))


class _Copies:
    """A source whose tensors are copies."""

    def __init__(self, source: TensorSource) -> None:
        self.error: type[K2Error] = source.error
        self._source = source

    def find(self, name: str) -> QuantizedTensor | None:
        """See TensorSource.find."""
        found = self._source.find(name)
        return None if found is None else QuantizedTensor(found.type, found.shape, found.data.copy())


def _copying(reader: WeightReader) -> WeightReader:
    return WeightReader(reader.config, _Copies(reader.source), reader.watcher)
