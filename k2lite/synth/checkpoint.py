"""A synthetic checkpoint folder: which tensors it stores, in which shards, under the names of the published ones."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from k2lite.config import ModelConfig
from k2lite.synth.content import Cut, Fixed, Piece, Pieces
from k2lite.synth.pool import PoolKey
from k2lite.synth.shapes import Config, Form
from k2lite.synth.values import Drawn, kind_of, weight_std
from k2lite.tensor_layout import TensorLayout, tensor_layouts
from quant.checkpoint.fp8 import scale_shape
from quant.checkpoint.int4 import GROUP, WORD_NIBBLES
from quant.checkpoint.safetensors_writer import SafetensorsSpec, safetensors_layout
from quant.convert.output_layout import OutputFile, OutputLayout
from quant.errors import UnsupportedError

_TEXT_PREFIX = "language_model."


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a shard, and the piece that is all of it."""

    spec: SafetensorsSpec
    piece: Piece


@dataclass(frozen=True)
class FolderStyle:
    """How a family's checkpoints look: `shard_name` has {number} and {count}."""

    form: Form
    shard_name: str
    stores_inv_freq: bool = False


def checkpoint_layout(
    destination: Path, config: Config, model: ModelConfig, style: FolderStyle, other_files: Mapping[str, bytes]
) -> tuple[OutputLayout, Pieces]:
    """All files of the folder, a shard for each layer and one for what is outside of them, and their contents.

    `other_files` are those of the tokenizer. Raises UnsupportedError for widths that the form cannot store.
    """
    prefix = _TEXT_PREFIX if "text_config" in config else ""
    shards = _shards(model, style)
    files: list[OutputFile] = []
    pieces: dict[str, tuple[Piece, ...]] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = style.shard_name.format(number=number, count=len(shards))
        stored = {prefix + tensor.spec.name: tensor for tensor in shard}
        specs = [SafetensorsSpec(key, tensor.spec.dtype, tensor.spec.shape) for key, tensor in stored.items()]
        files.append(safetensors_layout(destination / name, specs, {"format": "pt"}))
        # in the order of the file, which is that in which the pools will be needed
        pieces |= {tensor.name: (stored[tensor.name].piece,) for tensor in files[-1].tensors}
        weight_map |= dict.fromkeys(stored, name)
    total_size = sum(tensor.nbytes for file in files for tensor in file.tensors)
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    texts = {"model.safetensors.index.json": json_bytes(index), "config.json": json_bytes(config), **other_files}
    files += [OutputFile(destination / name, data) for name, data in texts.items()]
    return OutputLayout(destination, tuple(files), is_folder=True), pieces


def json_bytes(content: object) -> bytes:
    """A JSON file as people read it."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def _shards(model: ModelConfig, style: FolderStyle) -> list[list[StoredTensor]]:
    """Layer 0, 1, ..., then embedding, norm and head."""
    shards: list[list[StoredTensor]] = [[] for _ in range(model.n_layers + 1)]
    seen = set()
    for layout in tensor_layouts(model):
        for part in range(layout.parts):
            source = layout.source_name(part)
            if source not in seen:  # two tensors of a GGUF file come from one of the checkpoint's
                seen.add(source)
                shards[_layer(source, model.n_layers)] += _stored(source, layout, model, style.form)
    if style.stores_inv_freq:
        for number, shard in enumerate(shards[:-1]):
            shard.append(_inv_freq(number, model))
    return shards


def _layer(source: str, outside: int) -> int:
    parts = source.split(".")
    return int(parts[2]) if parts[1] == "layers" else outside


def _stored(source: str, layout: TensorLayout, model: ModelConfig, form: Form) -> Iterator[StoredTensor]:
    shape, kind = layout.source_shape, kind_of(layout)
    if kind is not None:
        dtype = "F32" if kind == "bias" else "BF16"
        yield StoredTensor(SafetensorsSpec(source, dtype, shape), Drawn(kind, shape, dtype, source))
        return
    std = weight_std(layout, model)
    if form == "fp8" and "_proj" in source:
        yield from _fp8(source, shape, std)
    elif form == "int4" and ".mlp.experts." in source:
        yield from _int4(source, shape, std)
    else:
        yield _cut(source, "BF16", shape, PoolKey("BF16", std))


def _fp8(source: str, shape: tuple[int, ...], std: float) -> Iterator[StoredTensor]:
    rows, cols = shape
    # one pool of codes serves all: the spread is in the scales
    yield _cut(source, "F8_E4M3", shape, PoolKey("FP8", 1.0))
    yield _cut(f"{source}_scale_inv", "F32", scale_shape(rows, cols), PoolKey("FP8_SCALE", std))


def _int4(source: str, shape: tuple[int, ...], std: float) -> Iterator[StoredTensor]:
    rows, cols = shape
    if cols % GROUP:
        raise UnsupportedError(
            f"{source} has rows of {cols} weights, which INT4 groups of {GROUP} do not divide: choose a multiple of "
            f"{GROUP} for the hidden size and for the width of an expert"
        )
    module, key = source.removesuffix(".weight"), PoolKey("INT4", std)
    packed = SafetensorsSpec(f"{module}.weight_packed", "I32", (rows, cols // WORD_NIBBLES))
    scales = SafetensorsSpec(f"{module}.weight_scale", "BF16", (rows, cols // GROUP))
    yield StoredTensor(packed, Cut(key, source, rows * cols))
    yield StoredTensor(scales, Cut(key, source, rows * cols, plane=1))
    shape_bytes = np.array([rows, cols], dtype="<i4").tobytes()
    yield StoredTensor(SafetensorsSpec(f"{module}.weight_shape", "I32", (2,)), Fixed(shape_bytes))


def _cut(name: str, dtype: str, shape: tuple[int, ...], key: PoolKey) -> StoredTensor:
    return StoredTensor(SafetensorsSpec(name, dtype, shape), Cut(key, name, math.prod(shape)))


def _inv_freq(layer: int, model: ModelConfig) -> StoredTensor:
    dim = model.qk_rope_dim
    values = (model.rope_theta ** (-np.arange(0, dim, 2) / dim)).astype("<f4")
    name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
    return StoredTensor(SafetensorsSpec(name, "F32", (dim // 2,)), Fixed(values.tobytes()))
