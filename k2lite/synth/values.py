"""What the weights of a synthetic model are like: so spread that a forward pass stays sane at any depth, and that
every expert gets its share of the tokens.

The stream begins with a spread of 1. Inner matrices keep what they get at 1; what attention and feed-forward blocks
add to the stream is so much smaller that all layers together add half as much again, as in trained models, where no
layer upsets the choice of experts of all later ones.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from k2lite.config import ModelConfig
from k2lite.synth.pool import label_number
from k2lite.tensor_layout import TensorLayout
from quant.encode.encode import encode
from quant.types import block_type

_ADDED_BY_ALL_LAYERS = 0.5
_LOGIT_STD = 3.0
_NORM_SPREAD = 0.1
# Around the score at which 8 of 384 experts are chosen, 0.01 of bias is a tenth of a standard deviation of the logit,
# and a quarter of an expert's share.
_BIAS_STD = 0.002


@dataclass(frozen=True)
class Drawn:
    """A small tensor that is drawn itself: `kind` is "norm", "router" or "bias"; `type` a block type of its bytes.

    `std` is the spread of a bias that shall not be the usual one.
    """

    kind: str
    shape: tuple[int, ...]
    type: str
    label: str
    std: float | None = None


def kind_of(layout: TensorLayout) -> str | None:
    """What kind of small tensor this is, None for a matrix that is cut from a pool."""
    for suffix, kind in _SMALL_TENSORS.items():
        if layout.name.endswith(suffix):
            return kind
    return None


def weight_std(layout: TensorLayout, config: ModelConfig) -> float:
    """Standard deviation of a matrix."""
    inputs = layout.shape[-1]
    name = layout.name.removesuffix(".weight").rpartition(".")[2]
    stream = _LOGIT_STD / math.sqrt(config.hidden_size) if config.tied_embeddings else 1.0
    if name == "token_embd":
        return stream
    if name == "output":
        return _LOGIT_STD / math.sqrt(inputs)
    if name in ("attn_k_b", "attn_v_b"):  # halves of one matrix, the first of them transposed
        return 1 / math.sqrt(config.kv_lora_rank)
    if name == "attn_output" or name.startswith("ffn_down"):
        added = stream * _ADDED_BY_ALL_LAYERS / math.sqrt(2 * config.n_layers)
        return added / math.sqrt(inputs)
    return 1 / math.sqrt(inputs)


def drawn_bytes(tensor: Drawn, seed: int) -> np.ndarray:
    """The bytes of a small tensor, one-dimensional uint8."""
    noise = np.random.default_rng(label_number(seed, tensor.label)).standard_normal(tensor.shape, dtype=np.float32)
    drawn = _DRAWERS[tensor.kind](noise) if tensor.std is None else np.float32(tensor.std) * noise
    values = torch.from_numpy(drawn)
    return encode(values, block_type(tensor.type))


def _norm(noise: np.ndarray) -> np.ndarray:
    return 1 + np.float32(_NORM_SPREAD) * noise


def _router(noise: np.ndarray) -> np.ndarray:
    """Rows of length 1: a longer one would draw more tokens."""
    return noise / np.sqrt(np.square(noise).sum(-1, keepdims=True))


def _bias(noise: np.ndarray) -> np.ndarray:
    return np.float32(_BIAS_STD) * noise


_SMALL_TENSORS: Mapping[str, str] = MappingProxyType(
    {"_norm.weight": "norm", "ffn_gate_inp.weight": "router", "exp_probs_b.bias": "bias"}
)
_DRAWERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {"norm": _norm, "router": _router, "bias": _bias}
)
