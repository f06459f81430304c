"""Where every byte of a set of safetensors files lies, before the first one is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.checkpoint.shards import INDEX_NAME
from quant.convert.output_layout import OutputFile, OutputTensor

_ALIGNMENT = 8
_ITEM_BYTES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class StoredPart:
    """One tensor as a safetensors header describes it. `suffix` is what follows the name of its entry."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class ShardEntry:
    """What one tensor of the model becomes: one tensor of the file, or several that lie behind each other."""

    name: str
    parts: tuple[StoredPart, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    @property
    def alignment(self) -> int:
        """Bytes that the length is a multiple of and every item's size divides: what may follow in any place."""
        return min(_ALIGNMENT, self.nbytes & -self.nbytes)


def split_into_shards(entries: Sequence[ShardEntry], shard_bytes: int) -> list[list[ShardEntry]]:
    """Entries by file, in their order: as many as fit in `shard_bytes`, at least one.

    Within a file those come first whose length keeps the next one aligned: readers look at numbers where they lie.
    """
    shards: list[list[ShardEntry]] = []
    size = 0
    for entry in entries:
        if not shards or size + entry.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
    return [sorted(shard, key=lambda entry: -entry.alignment) for shard in shards]


def shard_files(destination: Path, shards: Sequence[Sequence[ShardEntry]]) -> list[OutputFile]:
    """The files of the folder `destination`, and if there are several the index of their tensors."""
    files: list[OutputFile] = []
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = tuple(OutputTensor(entry.name, entry.nbytes) for entry in shard)
        files.append(OutputFile(destination / name, _header(shard), tensors))
        weight_map |= {entry.name + part.suffix: name for entry in shard for part in entry.parts}
    if len(shards) > 1:
        total = sum(entry.nbytes for shard in shards for entry in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.append(OutputFile(destination / INDEX_NAME, json.dumps(index, indent=1).encode()))
    return files


def _header(shard: Sequence[ShardEntry]) -> bytes:
    # transformers refuses files that do not say that they were made for torch.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in shard:
        for part in entry.parts:
            if position % _ITEM_BYTES[part.dtype]:
                raise ValueError(f"{entry.name}{part.suffix} of {part.dtype} would lie at byte {position}")
            offsets = [position, position + part.nbytes]
            header[entry.name + part.suffix] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": offsets}
            position += part.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
