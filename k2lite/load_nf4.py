"""The tensors of an NF4 folder in memory, named and stacked as in a GGUF file."""

import math
from collections.abc import Callable

import numpy as np
import psutil
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.tensor_layout import TensorLayout, tensor_layouts
from k2lite.weights import float_tensor
from quant.errors import CheckpointError
from quant.nf4.nf4_file import Entry, Nf4Entry, Nf4Folder, PlainEntry
from quant.nf4.values import BLOCK, NF4, to_blocks
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type

ByteProgress = Callable[[int, int], None]


def read_nf4_tensors(
    folder: Nf4Folder, config: ModelConfig, progress: ByteProgress
) -> tuple[dict[str, QuantizedTensor], int]:
    """Every tensor of the model by its GGUF name, and the bytes that they take.

    NF4 stays NF4 where its blocks end with the rows, and plain numbers stay as they are; what is rearranged (the two
    halves of kv_b_proj) becomes F32. `progress` is told (bytes ready, bytes in all). Raises CheckpointError when
    something is missing, damaged or of another model, or memory cannot hold it all.
    """
    layouts = tensor_layouts(config)
    types = [_type_in_memory(folder, layout) for layout in layouts]
    sizes = [_nbytes(layout, kind) for layout, kind in zip(layouts, types, strict=True)]
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


def _nbytes(layout: TensorLayout, kind: BlockType) -> int:
    return math.prod(layout.shape[:-1]) * kind.row_bytes(layout.shape[-1])


def _entries(folder: Nf4Folder, layout: TensorLayout) -> list[Entry]:
    """What a tensor is made of. Raises CheckpointError when a part is missing or has another shape."""
    entries = []
    for name in map(layout.source_name, range(layout.parts)):
        entry = folder.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{name} is missing from {folder.folder}: download or quantize it again")
        if entry.shape != layout.source_shape:
            raise CheckpointError(
                f"{name} has shape {list(entry.shape)}, but config.json asks for {list(layout.source_shape)}: they are "
                "of different models"
            )
        entries.append(entry)
    return entries


def _type_in_memory(folder: Nf4Folder, layout: TensorLayout) -> BlockType:
    """The type in which all parts can lie as they are stored, F32 where there is none."""
    forms = {_form(entry) for entry in _entries(folder, layout)}
    return block_type("F32") if layout.transform is not None or len(forms) > 1 else forms.pop()


def _form(entry: Entry) -> BlockType:
    if isinstance(entry, PlainEntry):
        return block_type(entry.storage)
    # A row that ends within a block shares that block with the next one, and smaller blocks have no type in memory.
    fits = entry.block % BLOCK == 0 and entry.shape[-1] % entry.block == 0
    return NF4 if fits else block_type("F32")


def _tensor(folder: Nf4Folder, config: ModelConfig, layout: TensorLayout, kind: BlockType) -> QuantizedTensor:
    entries = _entries(folder, layout)
    if layout.transform is not None:
        return float_tensor(layout.transform(entries[0].decode(), config))
    data = np.empty(_nbytes(layout, kind), dtype=np.uint8)
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
