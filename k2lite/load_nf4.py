"""The tensors of an NF4 folder, named and stacked as in a GGUF file, and who makes its experts and its layers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
from torch import Tensor

from k2lite.card_placement import CardPlacement, place_on_cards
from k2lite.config import ModelConfig
from k2lite.expert_names import is_expert_tensor
from k2lite.load_gguf import mapped, paged
from k2lite.nf4_experts import MemoryTensor, entries_of, nf4_slabs, nf4_tensors
from k2lite.ram_budget import Placement, WeightBytes, context_tokens, place
from k2lite.weights import Builder, MakeExperts, WeightWatcher, float_tensor
from offload.memory_options import MemoryOptions
from offload.slabs import SlabMap
from quant.errors import CheckpointError, RequestError
from quant.kernels import Kernels
from quant.nf4.nf4_file import Entry, Nf4Entry, Nf4Folder, PlainEntry
from quant.nf4.values import BLOCK, NF4, to_blocks
from quant.tensor import QuantizedTensor
from quant.types import BlockType

ByteProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Nf4Weights:
    """Tensors by their GGUF names, and who makes the experts where those are not among them, or not only there.

    `total_bytes` is what all weights would take in memory. `builders` say where layers compute: see build_model.
    """

    tensors: dict[str, QuantizedTensor]
    total_bytes: int
    make_experts: MakeExperts | None
    builders: Sequence[Builder]


def load_nf4_weights(
    folder: Nf4Folder, config: ModelConfig, kernels: Kernels, memory: MemoryOptions, progress: ByteProgress
) -> Nf4Weights:
    """All weights, or those that every token needs where the budget has no room for more. Raises K2Error."""
    found = nf4_tensors(folder, config)
    resident = {name: tensor for name, tensor in found.items() if not is_expert_tensor(name)}
    total, resident_bytes = (sum(tensor.nbytes for tensor in part.values()) for part in (found, resident))

    @functools.cache
    def slabs() -> SlabMap:
        return nf4_slabs(folder, config)  # reads what lies beside every expert: for those who will need it only

    on_cards = place_on_cards(found, config, memory.cards, context_tokens(config, memory))
    if memory.cards and not on_cards.has_layers and not slabs().layers:
        raise RequestError("--devices has no effect: no card has room for a layer with its cache; leave it out")
    # All is read before layers are copied to their cards: what lies there was in RAM, too, and has to fit.
    in_ram = WeightBytes(total, resident_bytes - on_cards.resident_bytes)
    watched, cached = isinstance(kernels, WeightWatcher), on_cards.layers_in_ram(config)
    placement = place(in_ram, config, slabs, memory, watched, cached, on_cards.chunk_tokens, on_cards.sending)
    on_cards = replace(on_cards, chunk_tokens=placement.chunk_tokens)
    builders = on_cards.builders(config, kernels)
    wanted = found if placement.slot_bytes is None else resident
    make = _make_experts(config, slabs, memory, placement, on_cards)
    return Nf4Weights(read_nf4_tensors(folder, config, wanted, progress), total, make, builders)


def _make_experts(
    config: ModelConfig,
    slabs: Callable[[], SlabMap],
    memory: MemoryOptions,
    placement: Placement,
    on_cards: CardPlacement,
) -> MakeExperts | None:
    """Who makes experts that are not only in memory. None also for those that no slot can have: their cards have
    layers alone."""
    if placement.slot_bytes is not None:
        return paged(config, slabs(), memory, placement, on_cards)
    if on_cards.cards and slabs().layers:
        return mapped(config, slabs(), on_cards, warm_up=False)
    return None


def read_nf4_tensors(
    folder: Nf4Folder, config: ModelConfig, wanted: Mapping[str, MemoryTensor], progress: ByteProgress
) -> dict[str, QuantizedTensor]:
    """The tensors that are `wanted`, by their GGUF names.

    NF4 stays NF4 where its blocks end with the rows, and plain numbers stay as they are; what is rearranged (the two
    halves of kv_b_proj) becomes F32. `progress` is told (bytes ready, bytes in all). Raises CheckpointError when
    something is damaged, or memory cannot hold it all.
    """
    total, available = sum(tensor.nbytes for tensor in wanted.values()), psutil.virtual_memory().available
    if total > available:
        raise CheckpointError(
            f"the model takes {total / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free: a GGUF file of it "
            "(k2lite quantize SRC FILE.gguf) is used where it lies on the drive"
        )
    tensors, done = {}, 0
    progress(done, total)
    for name, tensor in wanted.items():
        tensors[name] = _read(folder, config, tensor)
        done += tensor.nbytes
        progress(done, total)
    return tensors


def _read(folder: Nf4Folder, config: ModelConfig, tensor: MemoryTensor) -> QuantizedTensor:
    layout = tensor.layout
    entries = entries_of(folder, layout)
    if layout.transform is not None:
        return float_tensor(layout.transform(entries[0].decode(), config))
    data = np.empty(tensor.nbytes, dtype=np.uint8)
    for entry, part in zip(entries, np.split(data, layout.parts), strict=True):
        _fill(part, entry, tensor.type)
    return QuantizedTensor(tensor.type, layout.shape, data)


def _fill(target: np.ndarray, entry: Entry, kind: BlockType) -> None:
    """Put one part's bytes into their place."""
    if isinstance(entry, Nf4Entry) and kind == NF4:
        codes, factors = entry.read()
        # Larger blocks are several of 64 with one factor.
        to_blocks(codes, np.repeat(factors, entry.block // BLOCK), target)
    elif isinstance(entry, PlainEntry) and kind.name == entry.storage:
        target[:] = entry.read()
    else:
        target[:] = _bytes(entry.decode())


def _bytes(values: Tensor) -> np.ndarray:
    flat: np.ndarray = values.contiguous().numpy().reshape(-1).view(np.uint8)
    return flat
