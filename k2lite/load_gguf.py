"""A GGUF file's weights into a model: mapped where memory holds them all, else with experts read as they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from k2lite.card_placement import CardPlacement, place_on_cards
from k2lite.config import ModelConfig
from k2lite.engine_options import DEFAULT_CHUNK_TOKENS, DEFAULT_CONTEXT_TOKENS
from k2lite.expert_names import is_expert_tensor
from k2lite.expert_slabs import expert_slabs
from k2lite.kv_cache import cache_bytes
from k2lite.layer import Choice
from k2lite.model import Model
from k2lite.own_memory import ALLOWED_BYTES, PromptMemory, budget_for, own_bytes, resident_bytes, without_own
from k2lite.sizes import format_bytes
from k2lite.weights import MakeExperts, WeightReader, WeightWatcher, build_model, mapped_layers
from offload.build import layout_of, mapped_experts_with_cards, paged_experts
from offload.card_devices import PoolCard
from offload.experts import Experts, MappedExperts
from offload.free_memory import default_budget_bytes
from offload.lookahead import RouterGuess
from offload.memory_options import MemoryOptions
from offload.probe_host import usable_cores
from offload.resident import FileRange, read_ranges
from offload.slabs import SlabMap
from offload.warm_up import WarmUp
from quant.errors import GgufError, K2Error, RequestError
from quant.gguf.gguf_file import GgufFile
from quant.kernels import Kernels
from quant.tensor import QuantizedTensor

ByteProgress = Callable[[int, int], None]

# A chunk of a prompt may keep this share of the budget busy with its activations.
_CHUNK_SHARE = 0.1
_LARGEST_CHUNK_TOKENS = 4096
# For a chunk of so many tokens there is always room; for a longer one slots are given up meanwhile.
_SHORT_TOKENS = 64


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


@dataclass(frozen=True)
class Placement:
    """How a budget is shared out: bytes for experts' slots, and the longest chunk of a prompt.

    `slot_bytes` None means that everything is mapped. `chunk_bytes` of the slots make room for a chunk of so many
    tokens.
    """

    slot_bytes: int | None
    chunk_tokens: int | None = None
    chunk_bytes: Callable[[int], int] = lambda tokens: 0


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
    on_cards = place_on_cards(file, config, memory.cards, _context_tokens(config, memory))
    placement = place(file, config, slabs, memory, on_cards, watched=isinstance(kernels, WeightWatcher))
    builders = on_cards.builders(config, kernels)
    if placement.slot_bytes is None:
        roomy = total <= _default_budget(config, memory)  # what is watched may be larger, and would push itself out
        model = build_model(config, GgufTensors(file), kernels, _mapped(config, slabs, on_cards.cards, roomy), builders)
        if roomy:
            # Without cards experts come in the background: an answer can begin before all are there.
            names = [name for name in file.tensors if memory.cards or not is_expert_tensor(name)]
            for done in file.page_in(names):
                progress(min(done, total), total)
        model.listen(None)
    else:
        tensors = ResidentTensors(file, progress)
        model = build_model(config, tensors, kernels, _paged(config, slabs, memory, on_cards, placement), builders)
    progress(total, total)
    return model


def place(
    file: GgufFile,
    config: ModelConfig,
    slabs: SlabMap,
    memory: MemoryOptions,
    on_cards: CardPlacement,
    watched: bool = False,
) -> Placement:
    """Decide between mapped and paged, and share out the budget. Raises RequestError with the numbers.

    What lies `on_cards` takes no RAM.

    Weights that are `watched` must not come and go: they are mapped, whatever that costs.
    """
    given = memory.ram_budget_bytes
    budget = _default_budget(config, memory) if given is None else given
    # What is free, where no budget was given, is so beside what this process has taken already.
    itself = 0 if given is None else own_bytes(config, resident_bytes())
    left = without_own(budget, itself)
    prompt = PromptMemory(config, usable_cores())
    chunk = prompt.longest_chunk(int(budget * _CHUNK_SHARE), _LARGEST_CHUNK_TOKENS)
    total = sum(info.nbytes for info in file.tensors.values()) - on_cards.resident_bytes
    fits = total <= budget if given is None else total + prompt.bytes_of(DEFAULT_CHUNK_TOKENS) <= left
    if fits or watched or not slabs.layers:
        _check_mapped(total, budget, memory)
        return Placement(None)
    resident = sum(info.nbytes for name, info in file.tensors.items() if not is_expert_tensor(name))
    resident -= on_cards.resident_bytes
    buffers = prompt.bytes_of(chunk)
    smallest = layout_of(slabs, config.experts_per_token).smallest_budget_bytes
    needed = resident + buffers + smallest
    if left < needed:
        raise RequestError(
            f"a RAM budget of {format_bytes(budget)} is too small: weights that every token needs take "
            f"{format_bytes(resident)}, buffers {format_bytes(buffers)} and one expert of each size "
            f"{format_bytes(smallest)}: give --ram-budget {budget_for(needed, itself)} or more"
        )
    always = prompt.kept_bytes(chunk) + prompt.passing_bytes(_SHORT_TOKENS)
    return Placement(left - resident - always, chunk, lambda tokens: max(0, prompt.bytes_of(tokens, chunk) - always))


def budget_with_slots(config: ModelConfig, resident: int, slot_bytes: int) -> int:
    """A RAM budget that leaves about `slot_bytes` for slots beside `resident` bytes of weights, in a fresh process."""
    buffers = PromptMemory(config, usable_cores()).bytes_of(_SHORT_TOKENS, longest=DEFAULT_CHUNK_TOKENS)
    return budget_for(resident + buffers + slot_bytes, own_bytes(config, ALLOWED_BYTES))


def _default_budget(config: ModelConfig, memory: MemoryOptions) -> int:
    """What is free, less the cache that will be made."""
    return default_budget_bytes(cache_bytes(config, _context_tokens(config, memory)))


def _context_tokens(config: ModelConfig, memory: MemoryOptions) -> int:
    """Positions that a cache will be made for."""
    return min(config.context_length, memory.context_tokens or DEFAULT_CONTEXT_TOKENS)


def _check_mapped(total: int, budget: int, memory: MemoryOptions) -> None:
    """Raises RequestError for what has no effect on a model that stays in memory as a whole."""
    if memory.mirror is not None:
        raise RequestError(
            f"--mirror has no effect: all {format_bytes(total)} of the model stay in memory; leave it out, or give a "
            "smaller --ram-budget"
        )
    if total > budget and memory.ram_budget_bytes is not None:
        raise RequestError(
            f"--ram-budget {format_bytes(budget)} is too small: all {format_bytes(total)} of this model are needed at "
            "any time"
        )


def _mapped(config: ModelConfig, slabs: SlabMap, cards: Sequence[PoolCard], warm_up: bool) -> MakeExperts:
    """Mapped experts, brought into memory in the background, and with cards if there are some."""

    def make(reader: WeightReader, routers: Mapping[int, Choice], kernels: Kernels) -> Experts:
        layers = mapped_layers(reader, routers)
        if cards:
            return mapped_experts_with_cards(slabs, config.experts_per_token, kernels, layers, cards)
        arrays = [tensor.data for layer in layers.values() for tensor in layer.tensors]
        return MappedExperts(layers, kernels, WarmUp(arrays) if warm_up and arrays else None)

    return make


def _paged(
    config: ModelConfig, slabs: SlabMap, memory: MemoryOptions, on_cards: CardPlacement, placement: Placement
) -> MakeExperts:
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
        )

    return make


def guess_of(router: Choice) -> RouterGuess:
    """Whom a router would choose for one token."""

    def guess(stream: Tensor) -> list[int]:
        ids: list[int] = router(stream)[1].ids[0].tolist()
        return ids

    return guess
