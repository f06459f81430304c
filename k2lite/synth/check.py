"""A synthetic model is checked before it is used: finite, spread as intended, evenly routed, able to run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.load import load_model
from k2lite.quantize.source import QuantizeSource, open_source
from k2lite.router import route
from k2lite.synth.values import kind_of, weight_std
from k2lite.tensor_layout import tensor_layouts
from quant.convert.source_tensor import SourceTensor
from quant.errors import K2Error
from quant.files.paths import is_folder

_SAMPLED_WEIGHTS = 64 << 20
_SAMPLED_LAYERS = 3
# The spread of types with the fewest bits comes out a good deal off; a wrong scale is off by far more.
_STD_TOLERANCE = 1.5
_STD_WEIGHTS = 1000  # too few say nothing about their spread
_PICKS_PER_EXPERT = 400  # chance alone then moves an expert's share by 5 %
_HIDDEN_BATCH = 2048
_MOST_UNEVEN = 2.0
_FORWARD_TOKENS = 32
_FORWARD_BYTES = 4 << 30  # of weights in memory; reading more takes longer than it tells


class SyntheticModelError(K2Error):
    """What was written is not fit to be used."""


@dataclass(frozen=True)
class RoutingShare:
    """How tokens spread over the experts of a layer: shares of the busiest and the idlest one, 1 is the mean."""

    layer: int
    busiest: float
    idlest: float


@dataclass(frozen=True)
class SynthCheck:
    """What was looked at. `forward_tokens` is 0 when the model is too large for a quick forward pass."""

    sampled_tensors: int
    sampled_weights: int
    routing: tuple[RoutingShare, ...]
    forward_tokens: int
    logit_std: float

    @property
    def busiest(self) -> float:
        """The largest share of any expert; 1 when there are none."""
        return max((share.busiest for share in self.routing), default=1.0)


def check_synthetic(path: Path, seed: int = 0, *, threads: int | None = None, uneven: bool = False) -> SynthCheck:
    """Look into the model at `path`, whose routers may be `uneven`. Raises SyntheticModelError, and what reading it
    raises."""
    generator = np.random.default_rng([seed, 1])
    with open_source(path, allow_requantize=True) as source:
        sampled = _check_values(source, generator)
        most = math.inf if uneven else _MOST_UNEVEN
        routing = tuple(_check_routing(source, layer, generator, most) for layer in _sampled_layers(source.config))
        fits = _forward_bytes(path, source) <= min(_FORWARD_BYTES, psutil.virtual_memory().available // 2)
        config = source.config
    logit_std = _forward(path, config, threads, generator) if fits else 0.0
    return SynthCheck(len(sampled), sum(sampled), routing, _FORWARD_TOKENS if fits else 0, logit_std)


def _check_values(source: QuantizeSource, generator: np.random.Generator) -> list[int]:
    """The number of weights that were read of each tensor in the sample."""
    layouts = {layout.name: layout for layout in tensor_layouts(source.config)}
    read: list[int] = []
    for tensor in _in_sample_order(source, generator):
        if sum(read) >= _SAMPLED_WEIGHTS:
            break
        values = tensor.read_rows(int(generator.integers(tensor.parts)))
        if not torch.isfinite(values).all():
            raise SyntheticModelError(f"{tensor.name} of {source.path} holds NaN or inf: make it again")
        layout = layouts[tensor.name]
        if kind_of(layout) is None and values.numel() >= _STD_WEIGHTS:
            wanted, found = weight_std(layout, source.config), float(values.std())
            if not wanted / _STD_TOLERANCE < found < wanted * _STD_TOLERANCE:
                raise SyntheticModelError(
                    f"{tensor.name} of {source.path} has a standard deviation of {found:.3g} instead of {wanted:.3g}: "
                    "make it again, or with a type of more bits"
                )
        read.append(values.numel())
    return read


def _in_sample_order(source: QuantizeSource, generator: np.random.Generator) -> Iterator[SourceTensor]:
    """All tensors in a random order, but first one of each kind: experts, most of a model, then the small ones."""
    shuffled = [source.tensors[number] for number in generator.permutation(len(source.tensors))]
    first = {_without_layer(tensor.name): tensor for tensor in shuffled}
    yield from sorted(first.values(), key=lambda tensor: ("_exps" not in tensor.name, tensor.part_rows * tensor.cols))
    yield from (tensor for tensor in shuffled if first[_without_layer(tensor.name)] is not tensor)


def _without_layer(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _sampled_layers(config: ModelConfig) -> list[int]:
    mixtures = range(config.n_dense_layers, config.n_layers)
    if len(mixtures) <= _SAMPLED_LAYERS:
        return list(mixtures)
    return [mixtures[0], mixtures[len(mixtures) // 2], mixtures[-1]]


def _check_routing(source: QuantizeSource, layer: int, generator: np.random.Generator, most: float) -> RoutingShare:
    """Route random hidden states through one layer's router. No expert may get `most` times the mean of the tokens."""
    config, tensors = source.config, {tensor.name: tensor for tensor in source.tensors}
    norm, router, bias = (
        _whole(tensors.get(f"blk.{layer}.{name}"))
        for name in ("ffn_norm.weight", "ffn_gate_inp.weight", "exp_probs_b.bias")
    )
    assert norm is not None and router is not None
    picks = torch.zeros(config.n_experts)
    tokens = math.ceil(_PICKS_PER_EXPERT * config.n_experts / config.experts_per_token)
    for _ in range(math.ceil(tokens / _HIDDEN_BATCH)):
        hidden = generator.standard_normal((_HIDDEN_BATCH, config.hidden_size), dtype=np.float32)
        logits = (torch.from_numpy(hidden) * norm.view(-1)) @ router.view(config.n_experts, -1).T
        ids = route(logits, None if bias is None else bias.view(-1), config).ids
        picks += torch.bincount(ids.view(-1), minlength=config.n_experts)
    shares = picks / picks.mean()
    found = RoutingShare(layer, float(shares.max()), float(shares.min()))
    if found.busiest > most:
        raise SyntheticModelError(
            f"the busiest expert of layer {layer} of {source.path} gets {found.busiest:.2f} times the mean of the "
            "tokens: choose a larger hidden size or fewer experts"
        )
    return found


def _whole(tensor: SourceTensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat([tensor.read_rows(part) for part in range(tensor.parts)])


def _forward_bytes(path: Path, source: QuantizeSource) -> int:
    """Memory that the model takes when loaded: a folder's weights become float32."""
    return 4 * sum(tensor.weights for tensor in source.tensors) if is_folder(path) else source.stored_bytes


def _forward(path: Path, config: ModelConfig, threads: int | None, generator: np.random.Generator) -> float:
    """The spread of the logits after a few random tokens."""
    loaded = load_model(path, threads=threads)
    try:
        ids = torch.from_numpy(generator.integers(config.vocab_size, size=_FORWARD_TOKENS))
        logits = loaded.model.forward(ids, loaded.model.new_cache(len(ids)), last_only=False)
    finally:
        loaded.close()
    if not torch.isfinite(logits).all():
        raise SyntheticModelError(f"{path} computes NaN or inf: make it again")
    return float(logits.std())
