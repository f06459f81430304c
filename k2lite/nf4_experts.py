"""In which type each tensor of an NF4 folder is kept in memory, and where its routed experts lie."""

import math
from dataclasses import dataclass

import numpy as np

from k2lite.config import ModelConfig
from k2lite.tensor_layout import TensorLayout, tensor_layouts
from offload.nf4_slabs import Nested, Nf4Matrix, Nf4Stack
from offload.resident import FileRange
from offload.slabs import ExpertMatrices, LayerSlabs, PlacedRange, ScatteredTensor, SlabMap
from quant.checkpoint.shards import ShardTensor
from quant.errors import CheckpointError
from quant.nf4.nf4_file import Entry, Nf4Entry, Nf4Folder, PlainEntry
from quant.nf4.values import BLOCK, NF4
from quant.types import BlockType, block_type


def nf4_slabs(folder: Nf4Folder, config: ModelConfig) -> SlabMap:
    """The experts of all layers; of none where some cannot be multiplied as they are stored.

    Reads the small tables beside each matrix. Raises CheckpointError, and UnsupportedError for tables that are not
    NF4's.
    """
    by_name = {layout.name: layout for layout in tensor_layouts(config)}
    layers, tables = {}, dict[bytes, np.ndarray]()
    for layer in range(config.n_dense_layers, config.n_layers):
        kinds = [by_name[f"blk.{layer}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down")]
        stacks = [_matrices(folder, layout, tables) for layout in kinds]
        found = [stack for stack in stacks if stack is not None]
        if len(found) < len(stacks):
            return SlabMap({})
        layers[layer] = LayerSlabs(tuple(found))
    return SlabMap(layers)


@dataclass(frozen=True)
class MemoryTensor:
    """A tensor as memory will have it."""

    layout: TensorLayout
    type: BlockType

    @property
    def weights(self) -> int:
        """How many."""
        return math.prod(self.layout.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of them all."""
        return self.type.nbytes(self.layout.shape)


def nf4_tensors(folder: Nf4Folder, config: ModelConfig) -> dict[str, MemoryTensor]:
    """Every tensor of the model, by its GGUF name. Reads nothing. Raises CheckpointError."""
    return {layout.name: MemoryTensor(layout, _type_in_memory(folder, layout)) for layout in tensor_layouts(config)}


def _matrices(folder: Nf4Folder, layout: TensorLayout, tables: dict[bytes, np.ndarray]) -> ExpertMatrices | None:
    """None where the parts would have to be decoded. `tables` keeps one of all that are equal."""
    kind, entries = _type_in_memory(folder, layout), entries_of(folder, layout)
    experts, rows, cols = layout.shape
    nf4 = [entry for entry in entries if isinstance(entry, Nf4Entry)]
    if kind == NF4 and len(nf4) == len(entries):
        return Nf4Stack((experts, rows, cols), [_matrix(entry, tables) for entry in nf4])
    plain = [entry for entry in entries if isinstance(entry, PlainEntry)]
    if len(plain) < len(entries) or any(entry.storage != kind.name for entry in plain):
        return None
    ranges = [_range(entry.values) for entry in plain]
    placed = tuple(PlacedRange(found.path, found.offset, found.nbytes) for found in ranges)
    return ScatteredTensor(kind, (experts, rows, cols), placed)


def _matrix(entry: Nf4Entry, tables: dict[bytes, np.ndarray]) -> Nf4Matrix:
    entry.check_table()
    nested = None
    if entry.nested_offset is not None:
        table = entry.parts[".nested_quant_map"].read().float().reshape(-1).numpy()
        table = tables.setdefault(table.tobytes(), table)
        nested = Nested(_range(entry.parts[".nested_absmax"]), table, entry.nested_offset, entry.nested_block)
    return Nf4Matrix(_range(entry.parts[""]), _range(entry.parts[".absmax"]), entry.block, nested)


def _range(part: ShardTensor) -> FileRange:
    return FileRange(part.file.path, part.stored.offset, part.stored.nbytes)


def entries_of(folder: Nf4Folder, layout: TensorLayout) -> list[Entry]:
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
    forms = {_form(entry) for entry in entries_of(folder, layout)}
    return block_type("F32") if layout.transform is not None or len(forms) > 1 else forms.pop()


def _form(entry: Entry) -> BlockType:
    if isinstance(entry, PlainEntry):
        return block_type(entry.storage)
    # A row that ends within a block shares that block with the next one, and smaller blocks have no type in memory.
    fits = entry.block % BLOCK == 0 and entry.shape[-1] % entry.block == 0
    return NF4 if fits else block_type("F32")
