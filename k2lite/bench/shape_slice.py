"""A slice of a published model, at full width with random weights, and what it says about the whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.synth.families import shape_named
from k2lite.synth.shapes import Changes
from k2lite.synth.synth import SynthRequest, plan_synthetic, write_synthetic

SLICE_RECIPE = "Q4_K_M"
_EXPERT_LAYERS = 2
_MOST_EXPERTS = 32


def write_slice(shape_name: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """A file with the dense layers, two layers with experts, of which there are fewer, and the whole vocabulary.

    As many experts are used per token as in the whole model. Raises K2Error.
    """
    whole = whole_config(shape_name)
    changes = Changes(layers=whole.n_dense_layers + _EXPERT_LAYERS, experts=min(whole.n_experts, _MOST_EXPERTS))
    path = folder / f"{shape_name}-slice.gguf"
    plan = plan_synthetic(SynthRequest(path, shape_named(shape_name), shape_name, changes, recipe=SLICE_RECIPE))
    write_synthetic(plan, progress=lambda state: progress and progress(state.written_bytes, state.total_bytes))
    return path


def whole_config(shape_name: str) -> ModelConfig:
    """The published model."""
    return config_from_json(shape_named(shape_name).config)


def estimate(shape_name: str, summary: dict[str, Any]) -> dict[str, Any]:
    """How fast the whole model would decode, by the time that a slice's layers take. `summary` has a profile.

    The clocks' own cost is taken out: the parts are scaled to the speed that was measured without them.
    """
    whole, profile = whole_config(shape_name), summary["profile"]
    layers, dense = profile["layers"], profile["dense_layers"]
    ms = {name: stage["ms"] for name, stage in profile["stages"].items()}
    forward_ms = profile["total_ms"] - ms.get("sampling", 0.0)
    scale = 1000 / summary["decode_tokens_per_s"] / forward_ms
    outer_ms = scale * (ms.get("embedding", 0.0) + ms.get("head", 0.0))
    common_ms = scale * (ms.get("attention", 0.0) + ms.get("norms and rest", 0.0)) / layers
    dense_ms = common_ms + scale * ms.get("dense layers", 0.0) / max(1, dense)
    expert_ms = common_ms + scale * (ms.get("router", 0.0) + ms.get("experts", 0.0)) / max(1, layers - dense)
    token_ms = outer_ms + whole.n_dense_layers * dense_ms + (whole.n_layers - whole.n_dense_layers) * expert_ms
    return {
        "shape": shape_name,
        "is_estimate": True,
        "layers": whole.n_layers,
        "dense_layers": whole.n_dense_layers,
        "outer_ms": outer_ms,
        "dense_layer_ms": dense_ms,
        "expert_layer_ms": expert_ms,
        "token_ms": token_ms,
        "decode_tokens_per_s": 1000 / token_ms,
        "weight_bytes": whole_bytes(shape_name),
        "memory_bytes": summary["machine"]["memory_bytes"],
    }


def whole_bytes(shape_name: str) -> int:
    """Size of the whole model's file with the slice's types."""
    request = SynthRequest(Path("whole.gguf"), shape_named(shape_name), shape_name, recipe=SLICE_RECIPE)
    return plan_synthetic(request).layout.total_bytes
