"""A GGUF file's weights into a model: mapped where memory holds them all, else with experts read as they are needed."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from k2lite.card_placement import CardPlacement, place_on_cards
from k2lite.config import ModelConfig
from k2lite.expert_names import is_expert_tensor
from k2lite.expert_slabs import expert_slabs
from k2lite.layer import Choice
from k2lite.model import Model
from k2lite.ram_budget import Placement, WeightBytes, context_tokens, default_budget, place
from k2lite.weights import MakeExperts, WeightReader, WeightWatcher, build_model, mapped_layers
from offload.build import mapped_experts_with_cards, paged_experts
from offload.experts import Experts
from offload.lookahead import RouterGuess
from offload.mapped_experts import MappedExperts
from offload.memory_options import MemoryOptions
from offload.resident import FileRange, read_ranges
from offload.slabs import SlabMap
from offload.warm_up import WarmUp
from quant.errors import GgufError, K2Error, RequestError
from quant.gguf.gguf_file import GgufFile
from quant.kernels import Kernels
from quant.tensor import QuantizedTensor

ByteProgress = Callable[[int, int], None]


class GgufTensors:
    """Tensors of an open GGUF file, mapped."""

    error: type[K2Error] = GgufError

    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def find(self, name: str) -> QuantizedTensor | None:
        """See TensorSource.find."""
        return self._file.tensor(name) if name in self._file.tensors else None


class ResidentTensors:
    """All tensors of a file but its experts, in memory of their own."""

    error: type[K2Error] = GgufError

    def __init__(self, file: GgufFile, progress: ByteProgress) -> None:
        """Reads them. Raises StoreError."""
        infos = {name: info for name, info in file.tensors.items() if not is_expert_tensor(name)}
        total = sum(info.nbytes for info in infos.values())
        ranges = {name: FileRange(info.path, info.offset_bytes, info.nbytes) for name, info in infos.items()}
        data = read_ranges(ranges, lambda done: progress(min(done, total), total))
        self._tensors = {name: QuantizedTensor(info.type, info.shape, data[name]) for name, info in infos.items()}

    def find(self, name: str) -> QuantizedTensor | None:
        """See TensorSource.find."""
        return self._tensors.get(name)


def load_weights(
    file: GgufFile,
    config: ModelConfig,
    kernels: Kernels,
    memory: MemoryOptions,
    progress: ByteProgress,
) -> Model:
    """The model, with its experts where `memory` allows. It has to be closed. Raises K2Error."""
    total = sum(info.nbytes for info in file.tensors.values())
    progress(0, total)
    layers = [layer for layer in range(config.n_layers) if not config.is_dense(layer)]
    slabs = expert_slabs(file, WeightReader(config, GgufTensors(file)), layers)
    if memory.cards and not slabs.layers:
        raise RequestError("--devices has no effect: this model has no experts to put there; leave it out")
    on_cards = place_on_cards(file.tensors, config, memory.cards, context_tokens(config, memory))
    resident = sum(info.nbytes for name, info in file.tensors.items() if not is_expert_tensor(name))
    in_ram = WeightBytes(total - on_cards.resident_bytes, resident - on_cards.resident_bytes)
    cached = on_cards.layers_in_ram(config)
    watched = isinstance(kernels, WeightWatcher)
    placement = place(in_ram, config, lambda: slabs, memory, watched, cached, on_cards.chunk_tokens, on_cards.sending)
    on_cards = replace(on_cards, chunk_tokens=placement.chunk_tokens)
    builders = on_cards.builders(config, kernels)
    if placement.slot_bytes is None:
        # What is watched may be larger, and would push itself out.
        roomy = total <= default_budget(config, memory, cached)
        model = build_model(config, GgufTensors(file), kernels, mapped(config, slabs, on_cards, roomy), builders)
        if roomy:
            # Without cards experts come in the background: an answer can begin before all are there.
            names = [name for name in file.tensors if memory.cards or not is_expert_tensor(name)]
            for done in file.page_in(names):
                progress(min(done, total), total)
        model.listen(None)
    else:
        tensors = ResidentTensors(file, progress)
        model = build_model(config, tensors, kernels, paged(config, slabs, memory, placement, on_cards), builders)
    progress(total, total)
    return model


def mapped(config: ModelConfig, slabs: SlabMap, on_cards: CardPlacement, warm_up: bool) -> MakeExperts:
    """Experts that lie in memory, with cards if there are some; `warm_up` to bring them there in the background."""

    def make(reader: WeightReader, routers: Mapping[int, Choice], kernels: Kernels) -> Experts:
        layers = mapped_layers(reader, routers)
        if on_cards.cards:
            return mapped_experts_with_cards(
                slabs,
                config.experts_per_token,
                kernels,
                layers,
                on_cards.cards,
                prefill_tokens=on_cards.chunk_tokens,
                later_notes=on_cards.notes,
            )
        arrays = [tensor.data for layer in layers.values() for tensor in layer.tensors]
        return MappedExperts(layers, kernels, WarmUp(arrays) if warm_up and arrays else None)

    return make


def paged(
    config: ModelConfig,
    slabs: SlabMap,
    memory: MemoryOptions,
    placement: Placement,
    on_cards: CardPlacement,
) -> MakeExperts:
    """Experts that are read from the drive into the slots of `placement`."""
    slot_bytes = placement.slot_bytes
    assert slot_bytes is not None

    def make(reader: WeightReader, routers: Mapping[int, Choice], kernels: Kernels) -> Experts:
        return paged_experts(
            slabs,
            config.experts_per_token,
            kernels,
            {layer: guess_of(router) for layer, router in routers.items()},
            slot_budget_bytes=slot_bytes,
            cards=on_cards.cards,
            mirror=memory.mirror,
            prefill_tokens=placement.chunk_tokens,
            chunk_bytes=placement.chunk_bytes,
            later_notes=on_cards.notes,
        )

    return make


def guess_of(router: Choice) -> RouterGuess:
    """Whom a router would choose for one token."""

    def guess(stream: Tensor) -> list[int]:
        ids: list[int] = router(stream)[1].ids[0].tolist()
        return ids

    return guess
