"""Laying out a model as one GGUF file, or as shards that llama.cpp opens by the name of the first."""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from quant.convert.output_layout import OutputFile, OutputLayout, OutputTensor
from quant.errors import OutputError
from quant.gguf.gguf_shards import MAX_SHARDS, named_shard, split_entries
from quant.gguf.gguf_writer import MetadataEntry, TensorSpec, gguf_header

_LAYER = re.compile(r"blk\.\d+\.")


def gguf_layout(
    destination: Path,
    metadata: Sequence[MetadataEntry],
    tensors: Sequence[TensorSpec],
    shard_bytes: int | None = None,
) -> OutputLayout:
    """One file called `destination`, or shards of at most `shard_bytes` called STEM-00001-of-0000N.gguf.

    Tensors keep their order, and a layer stays in one shard unless it alone is longer than a shard. What fits into
    one file is one file without shard keys. Raises OutputError for what the format cannot hold, and for a tensor that
    is longer than a shard.
    """
    if not destination.name:
        raise OutputError(f"{destination} is a folder: name a file in it")
    whole = _file(destination, metadata, tensors)
    if shard_bytes is None or whole.nbytes <= shard_bytes:
        return OutputLayout(destination, (whole,))
    first_keys = len(gguf_header([*metadata, *split_entries(0, 1, len(tensors))], ()))
    shards = _distributed(tensors, shard_bytes, first_keys, len(gguf_header(split_entries(0, 1, len(tensors)), ())))
    if len(shards) > MAX_SHARDS:
        raise OutputError(
            f"{destination} would be {len(shards):,} shards, but names count to {MAX_SHARDS:,}: choose larger ones"
        )
    files = []
    for number, shard in enumerate(shards):
        entries = split_entries(number, len(shards), len(tensors))
        keys = [*metadata, *entries] if number == 0 else entries
        files.append(_file(named_shard(destination, number, len(shards)), keys, shard))
    return OutputLayout(destination, tuple(files))


def _file(path: Path, metadata: Sequence[MetadataEntry], tensors: Sequence[TensorSpec]) -> OutputFile:
    header = gguf_header(metadata, tensors)
    data = tuple(OutputTensor(spec.name, spec.nbytes, spec.padded_bytes - spec.nbytes) for spec in tensors)
    return OutputFile(path, header, data)


def _distributed(
    tensors: Sequence[TensorSpec], shard_bytes: int, first_keys: int, other_keys: int
) -> list[list[TensorSpec]]:
    """Tensors by shard: layers one after the other while they fit. `*_keys` are the bytes of the metadata."""
    if first_keys > shard_bytes:
        raise OutputError(
            f"the metadata takes {first_keys:,} bytes and cannot be in a shard of {shard_bytes:,}: choose larger shards"
        )
    # The first shard has no tensors when the metadata leaves too little room. The format allows that for the first.
    shards: list[list[TensorSpec]] = [[]]
    free = shard_bytes - first_keys
    for _, group in groupby(tensors, key=_layer):
        layer = list(group)
        # A layer that no shard can hold is cut between its tensors.
        pieces = [layer] if sum(map(_shard_cost, layer)) <= shard_bytes - other_keys else [[spec] for spec in layer]
        for piece in pieces:
            cost = sum(map(_shard_cost, piece))
            if cost > shard_bytes - other_keys:
                raise OutputError(
                    f"{piece[0].name} takes {cost:,} bytes and cannot be in a shard of {shard_bytes:,}: choose shards "
                    f"of at least {cost + other_keys:,} bytes"
                )
            if cost > free:
                shards.append([])
                free = shard_bytes - other_keys
            shards[-1] += piece
            free -= cost
    return shards


def _layer(spec: TensorSpec) -> str:
    """Tensors with equal answers stay together: those of a layer; each other tensor stands alone."""
    match = _LAYER.match(spec.name)
    return match.group() if match else spec.name


def _shard_cost(spec: TensorSpec) -> int:
    """Bytes that a tensor adds to a file, at most: its entry in the header, its data and padding."""
    return len(gguf_header((), [spec])) + spec.padded_bytes
