"""What the planner has to know of a model: from a file's header, or from a config.json before there is a file."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from k2lite.card_memory import card_buffers
from k2lite.config import ModelConfig
from k2lite.config_gguf import config_from_gguf
from k2lite.tensor_layout import tensor_layouts
from offload.model_bytes import LayerBytes, ModelBytes
from quant.gguf.gguf_file import GgufFile
from quant.recipe.recipe import Recipe, missing_importance, plan_types

_LAYER = re.compile(r"blk\.([0-9]+)\.")
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_CACHE_VALUE_BYTES = 4  # k2lite.kv_cache keeps float32
_STREAM_VALUE_BYTES = 4


@dataclass(frozen=True)
class SizedTensor:
    """A tensor of a file that is or will be."""

    name: str
    weights: int
    nbytes: int


def model_bytes_of_file(path: Path) -> ModelBytes:
    """A GGUF file (of several shards the first), by its header. Raises K2Error."""
    with GgufFile.open(path) as file:
        tensors = [SizedTensor(info.name, info.weights, info.nbytes) for info in file.tensors.values()]
        config = config_from_gguf(file.metadata)
    return model_bytes(tensors, config, config.name or path.stem)


def model_bytes_of_config(config: ModelConfig, recipe: Recipe, name: str) -> ModelBytes:
    """What `recipe` would make of a model. Raises K2Error for what the recipe cannot do."""
    shapes = [(layout.name, layout.shape) for layout in tensor_layouts(config)]
    types = plan_types(shapes, recipe)
    if missing_importance(shapes, types, recipe, known=lambda name: False):
        types = plan_types(shapes, recipe, imatrix=True)
    tensors = [
        SizedTensor(name, math.prod(shape), type.nbytes(shape))
        for (name, shape), type in zip(shapes, types, strict=True)
    ]
    return model_bytes(tensors, config, name)


def model_bytes(tensors: Iterable[SizedTensor], config: ModelConfig, name: str) -> ModelBytes:
    """Sort a model's tensors by what they are to a token. A file without a head multiplies with its embedding."""
    by_name = {tensor.name: tensor for tensor in tensors}
    resident, experts = [0] * config.n_layers, [0] * config.n_layers
    outer = outer_weights = resident_weights = 0
    for tensor in by_name.values():
        found = _LAYER.match(tensor.name)
        layer = int(found.group(1)) if found else None
        if tensor.name == _EMBEDDING and _HEAD in by_name:
            continue
        if layer is None:
            outer, outer_weights = outer + tensor.nbytes, outer_weights + tensor.weights
        elif layer < config.n_layers:  # behind are layers that predict further tokens
            if "_exps." in tensor.name:
                experts[layer] += tensor.nbytes // config.n_experts
            else:
                resident[layer] += tensor.nbytes
                resident_weights += tensor.weights
    return ModelBytes(
        name=name,
        layers=tuple(LayerBytes(*layer) for layer in zip(resident, experts, strict=True)),
        outer_bytes=outer,
        embedding_bytes=by_name[_EMBEDDING].nbytes if _EMBEDDING in by_name and _HEAD in by_name else 0,
        n_experts=config.n_experts,
        experts_per_token=config.experts_per_token,
        cache_bytes=_CACHE_VALUE_BYTES * config.latent_dim * config.n_layers,
        resident_weights=resident_weights + outer_weights,
        expert_weights=3 * config.hidden_size * config.expert_width,
        pair_flops=2 * config.n_heads * (config.latent_dim + config.kv_lora_rank) * config.n_layers,
        context_tokens=config.context_length,
        buffers=card_buffers(config, max(experts)),
        vector_bytes=_STREAM_VALUE_BYTES * config.hidden_size,
    )
