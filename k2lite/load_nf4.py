"""The tensors of an NF4 folder, named and stacked as in a GGUF file: in memory, or with experts read when needed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil
from torch import Tensor

from k2lite.card_placement import CardPlacement
from k2lite.config import ModelConfig
from k2lite.expert_names import is_expert_tensor
from k2lite.load_gguf import paged
from k2lite.nf4_experts import bytes_in_memory, entries_of, nf4_sizes, nf4_slabs, type_in_memory
from k2lite.ram_budget import WeightBytes, place
from k2lite.tensor_layout import TensorLayout, tensor_layouts
from k2lite.weights import MakeExperts, float_tensor
from offload.memory_options import MemoryOptions
from quant.errors import CheckpointError
from quant.nf4.nf4_file import Entry, Nf4Entry, Nf4Folder, PlainEntry
from quant.nf4.values import BLOCK, NF4, to_blocks
from quant.tensor import QuantizedTensor
from quant.types import BlockType

ByteProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Nf4Weights:
    """Tensors by their GGUF names, and who makes the experts where those are not among them.

    `total_bytes` is what all weights would take in memory.
    """

    tensors: dict[str, QuantizedTensor]
    total_bytes: int
    make_experts: MakeExperts | None = None


def load_nf4_weights(
    folder: Nf4Folder, config: ModelConfig, memory: MemoryOptions, progress: ByteProgress, watched: bool = False
) -> Nf4Weights:
    """All weights, or those that every token needs where the budget has no room for more. Raises K2Error."""
    sizes = nf4_sizes(folder, config)
    total = sum(sizes.values())
    resident = sum(nbytes for name, nbytes in sizes.items() if not is_expert_tensor(name))
    slabs = nf4_slabs(folder, config)
    placement = place(WeightBytes(total, resident), config, slabs, memory, watched or bool(memory.cards))
    if placement.slot_bytes is None:
        tensors, _ = read_nf4_tensors(folder, config, progress)
        return Nf4Weights(tensors, total)
    tensors, _ = read_nf4_tensors(folder, config, progress, with_experts=False)
    return Nf4Weights(tensors, total, paged(config, slabs, memory, placement, CardPlacement()))


def read_nf4_tensors(
    folder: Nf4Folder, config: ModelConfig, progress: ByteProgress, with_experts: bool = True
) -> tuple[dict[str, QuantizedTensor], int]:
    """Every tensor of the model by its GGUF name, and the bytes that they take.

    NF4 stays NF4 where its blocks end with the rows, and plain numbers stay as they are; what is rearranged (the two
    halves of kv_b_proj) becomes F32. `progress` is told (bytes ready, bytes in all). Raises CheckpointError when
    something is missing, damaged or of another model, or memory cannot hold it all.
    """
    layouts = [layout for layout in tensor_layouts(config) if with_experts or not is_expert_tensor(layout.name)]
    types = [type_in_memory(folder, layout) for layout in layouts]
    sizes = [bytes_in_memory(layout, kind) for layout, kind in zip(layouts, types, strict=True)]
    total, available = sum(sizes), psutil.virtual_memory().available
    if total > available:
        raise CheckpointError(
            f"the model takes {total / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free: a GGUF file of it "
            "(k2lite quantize SRC FILE.gguf) is used where it lies on the drive"
        )
    tensors, done = {}, 0
    progress(done, total)
    for layout, kind, nbytes in zip(layouts, types, sizes, strict=True):
        tensors[layout.name] = _tensor(folder, config, layout, kind)
        done += nbytes
        progress(done, total)
    return tensors, total


def _tensor(folder: Nf4Folder, config: ModelConfig, layout: TensorLayout, kind: BlockType) -> QuantizedTensor:
    entries = entries_of(folder, layout)
    if layout.transform is not None:
        return float_tensor(layout.transform(entries[0].decode(), config))
    data = np.empty(bytes_in_memory(layout, kind), dtype=np.uint8)
    for entry, part in zip(entries, np.split(data, layout.parts), strict=True):
        _fill(part, entry, kind)
    return QuantizedTensor(kind, layout.shape, data)


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
