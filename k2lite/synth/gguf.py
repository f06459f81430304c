"""A synthetic GGUF file of any recipe."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from k2lite.config import ModelConfig
from k2lite.gguf_metadata import model_metadata
from k2lite.synth.checkpoint import json_bytes
from k2lite.synth.content import Cut, Piece, Pieces
from k2lite.synth.pool import PoolKey
from k2lite.synth.routing import Routing, bias_std, shared_share
from k2lite.synth.shapes import Config
from k2lite.synth.topics import TOPICS, TOPICS_KEY, topic_tokens
from k2lite.synth.values import Drawn, kind_of, weight_std
from k2lite.tensor_layout import TensorLayout, tensor_layouts
from k2lite.tokenizer import Tokenizer
from quant.convert.output_layout import OutputLayout
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import MetadataEntry, TensorSpec
from quant.recipe.recipe import NamedShape, Recipe, missing_importance, plan_types
from quant.types import BlockType

_EMBEDDING = "token_embd.weight"


def synthetic_gguf_layout(
    destination: Path,
    config: Config,
    model: ModelConfig,
    recipe: Recipe,
    tokenizer_files: Mapping[str, bytes],
    routing: Routing | None = None,
) -> tuple[OutputLayout, Pieces]:
    """The file and its contents. Raises K2Error for what the format, the recipe or the tokenizer cannot do."""
    routing = routing or Routing()
    std = None if routing.skew is None else bias_std(model, routing.skew)
    shared = 0.0 if routing.reuse is None else shared_share(model, std or 0.0, routing.reuse)
    layouts = tensor_layouts(model)
    types = _types([(layout.name, layout.shape) for layout in layouts], recipe)
    specs = [TensorSpec(layout.name, type, layout.shape) for layout, type in zip(layouts, types, strict=True)]
    metadata = [
        *model_metadata(model, model.name, recipe.file_type),
        *_tokenizer_metadata(config, model, tokenizer_files),
    ]
    if shared:
        metadata.append(MetadataEntry(TOPICS_KEY, "uint32", TOPICS))
    pieces = {layout.name: _pieces(layout, type, model, std) for layout, type in zip(layouts, types, strict=True)}
    if shared:
        pieces[_EMBEDDING] = _topic_pieces(layouts[0], types[0], model, shared)
    return gguf_layout(destination, metadata, specs), pieces


def _types(tensors: list[NamedShape], recipe: Recipe) -> list[BlockType]:
    """The types of a real file: those that are worth nothing without an importance matrix are made with one."""
    types = plan_types(tensors, recipe)
    if missing_importance(tensors, types, recipe, known=lambda name: False):
        return plan_types(tensors, recipe, imatrix=True)
    return types


def _pieces(layout: TensorLayout, type: BlockType, model: ModelConfig, bias_std: float | None) -> tuple[Piece, ...]:
    """The tensor, or each of its experts or heads."""
    kind = kind_of(layout)
    if kind is not None:
        return (Drawn(kind, layout.shape, type.name, layout.name, bias_std if kind == "bias" else None),)
    key, rows = PoolKey(type.name, weight_std(layout, model)), layout.shape[-2:]
    slabs = layout.shape[0] if len(layout.shape) > 2 else 1
    return tuple(Cut(key, f"{layout.name} {slab}", rows[0] * rows[1]) for slab in range(slabs))


def _topic_pieces(layout: TensorLayout, type: BlockType, model: ModelConfig, shared: float) -> tuple[Piece, ...]:
    """An embedding whose rows begin alike within a topic."""
    assert layout.name == _EMBEDDING
    key, (vocab, hidden) = PoolKey(type.name, weight_std(layout, model)), layout.shape
    common = round(shared * hidden / type.block_weights) * type.block_weights
    pieces: list[Piece] = []
    for token in range(vocab):
        topic = token // topic_tokens(vocab)
        both = (Cut(key, f"{layout.name} topic {topic}", common), Cut(key, f"{layout.name} {token}", hidden - common))
        pieces += [piece for piece in both if piece.weights]
    return tuple(pieces)


def _tokenizer_metadata(config: Config, model: ModelConfig, files: Mapping[str, bytes]) -> list[MetadataEntry]:
    with tempfile.TemporaryDirectory(prefix="k2lite-synth-") as name:
        folder = Path(name)
        for file, data in {**files, "config.json": json_bytes(config)}.items():
            (folder / file).write_bytes(data)
        return [MetadataEntry(*entry) for entry in Tokenizer.from_folder(folder).gguf_metadata(model.vocab_size)]
