"""Synthetic models: random weights in the shape of a real model, for benchmarks and tests of every size."""

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.synth.checkpoint import FolderStyle, checkpoint_layout
from k2lite.synth.content import Cut, Piece, Pieces, content_of, pool_needs
from k2lite.synth.gguf import synthetic_gguf_layout
from k2lite.synth.pool import Pools
from k2lite.synth.routing import Routing
from k2lite.synth.shapes import Changes, Config, Form, Shape, changed, has_kimi_tokens, text_config
from k2lite.synth.values import Drawn
from k2lite.synth.vocabulary import copied_tokenizer_files, tokenizer_files
from k2lite.tensor_layout import tensor_layouts
from k2lite.tokenizer import Tokenizer
from quant.convert.output_layout import OutputLayout
from quant.errors import RequestError, UnsupportedError
from quant.files.fresh_output import FreshProgress, write_fresh
from quant.recipe.recipe import recipe_named

# llama.cpp knows Moonlight and DeepSeek-V2-Lite by these.
_LAYERS_WITHOUT_LOW_RANK = (26, 27)


@dataclass(frozen=True)
class SynthRequest:
    """What is wanted: `shape` with `changes`, as a checkpoint folder in `form` (None: the shape's own), or, with
    `recipe`, as a GGUF file. `tokenizer` is a folder whose tokenizer is taken, None for a made-up one. `routing` says
    how uneven the routers shall choose.
    """

    destination: Path
    shape: Shape
    shape_name: str
    changes: Changes = field(default_factory=Changes)
    form: Form | None = None
    recipe: str | None = None
    seed: int = 0
    tokenizer: Path | None = None
    routing: Routing = field(default_factory=Routing)

    def __post_init__(self) -> None:
        if self.form is not None and self.recipe is not None:
            raise RequestError("a form makes a checkpoint folder and a type a GGUF file: choose one of them")
        if not self.routing.is_even and self.recipe is None:
            raise RequestError("uneven routing goes into GGUF files only: choose a type")
        if self.tokenizer is not None and self.changes.vocab is not None:
            raise RequestError("the size of the vocabulary comes from the tokenizer: leave one of the two out")


@dataclass(frozen=True)
class FormatTotal:
    """Tensors in the files, and their bytes without padding."""

    tensors: int
    nbytes: int


@dataclass(frozen=True)
class SynthPlan:
    """A model that is laid out to the last byte, and the origin of every byte."""

    request: SynthRequest
    model: ModelConfig
    layout: OutputLayout
    pieces: Pieces
    weights: int

    @property
    def notes(self) -> list[str]:
        """What the user should know, a line each."""
        is_file, low_rank = self.request.recipe is not None, self.model.q_lora_rank is not None
        if is_file and low_rank and self.model.n_layers in _LAYERS_WITHOUT_LOW_RANK:
            return [
                f"llama.cpp takes a file of {self.model.n_layers} layers for a model without a low-rank query and will "
                "not load this one: choose another number of layers if it should"
            ]
        return []

    def totals(self) -> dict[str, FormatTotal]:
        """What the files hold of each format ("BF16", "FP8", "Q4_K" ...), the largest first."""
        totals: dict[str, FormatTotal] = {}
        for file in self.layout.files:
            for tensor in file.tensors:
                name = _format(self.pieces[tensor.name][0])
                so_far = totals.get(name, FormatTotal(0, 0))
                totals[name] = FormatTotal(so_far.tensors + 1, so_far.nbytes + tensor.nbytes)
        return dict(sorted(totals.items(), key=lambda item: -item[1].nbytes))


def plan_synthetic(request: SynthRequest) -> SynthPlan:
    """Lay the model out. Touches no disk but to read a tokenizer. Raises K2Error for what cannot be."""
    shape, recipe = request.shape, request.recipe
    form = request.form or ("bf16" if recipe else shape.form)
    if request.tokenizer is None:
        config = changed(shape.config, request.changes, form)
        files = _made_up(config, shape)
    else:
        files = copied_tokenizer_files(request.tokenizer)
        config = changed(shape.config, replace(request.changes, vocab=_vocab_size(request)), form)
    model = _model(config, request.shape_name)
    if recipe is None:
        style = FolderStyle(form, shape.shard_name, shape.stores_inv_freq)
        layout, pieces = checkpoint_layout(request.destination, config, model, style, files)
    else:
        layout, pieces = synthetic_gguf_layout(
            request.destination, config, model, recipe_named(recipe), files, request.routing
        )
    return SynthPlan(request, model, layout, pieces, _weights(model))


def write_synthetic(
    plan: SynthPlan,
    *,
    threads: int | None = None,
    progress: Callable[[FreshProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> float:
    """Write the model, which appears only when it is complete; returns the seconds it took.

    The bytes depend on the plan alone. Raises what `quant.files.fresh_output.write_fresh` raises.
    """
    seed, needs = plan.request.seed, pool_needs(plan.pieces)
    with Pools(seed, needs, threads or len(os.sched_getaffinity(0))) as pools:
        return write_fresh(plan.layout, content_of(plan.pieces, pools, seed), progress=progress, stop=stop)


def _made_up(config: Config, shape: Shape) -> dict[str, bytes]:
    config_from_json(config)  # a readable complaint about a field before the vocabulary needs it
    return tokenizer_files(config, thinks=shape.thinks)


def _vocab_size(request: SynthRequest) -> int | None:
    """The size that goes with a real tokenizer. Raises UnsupportedError when that has more tokens than there are."""
    assert request.tokenizer is not None
    size = Tokenizer.from_folder(request.tokenizer).vocab_size
    if has_kimi_tokens(request.shape.config):
        return size  # special tokens are the last ones
    if size > text_config(request.shape.config)["vocab_size"]:
        raise UnsupportedError(
            f"the tokenizer in {request.tokenizer} has {size:,} tokens, more than {request.shape_name}: choose the "
            "tokenizer of its own family"
        )
    return None


def _model(config: Config, shape_name: str) -> ModelConfig:
    """The model, named by its shape and size."""
    model = config_from_json(config)
    size = _size_label(_weights(model))
    return replace(model, name=f"synthetic {shape_name} {model.n_layers}x{model.n_experts} {size}")


def _size_label(weights: int) -> str:
    """1026408232448 -> "1.03T"."""
    for unit, power in (("T", 12), ("B", 9), ("M", 6)):
        if weights >= 10**power:
            return f"{weights / 10**power:.3g}{unit}"
    return f"{weights / 1000:.3g}K"


def _format(piece: Piece) -> str:
    """What a tensor's values are called; "fixed" are tables and shapes that nobody draws."""
    if isinstance(piece, Cut):
        return piece.key.format.replace("_SCALE", " scales")
    return piece.type if isinstance(piece, Drawn) else "fixed"


def _weights(model: ModelConfig) -> int:
    return sum(math.prod(layout.shape) for layout in tensor_layouts(model))
