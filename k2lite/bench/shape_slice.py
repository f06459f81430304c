"""A slice of a published model, at full width with random weights, and what it says about the whole."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.engine_options import DEFAULT_CONTEXT_TOKENS
from k2lite.model_bytes import model_bytes_of_config
from k2lite.synth.families import shape_named
from k2lite.synth.shapes import Changes
from k2lite.synth.synth import SynthRequest, plan_synthetic, write_synthetic
from offload.machine import Machine
from offload.model_bytes import ModelBytes
from offload.placement import Placement, place_model
from quant.recipe.recipe import recipe_named

SLICE_RECIPE = "Q4_K_M"
EXPERT_LAYERS = 2
_FEWEST_EXPERTS = 32
_LEAST_SLOTS_IN_PICKS = 2
# Of the memory, which the slice has to fit, and of the free disk space.
_PART_OF_ROOM = 3


@dataclass(frozen=True)
class SlicePlan:
    """A slice that can be in the regime of the whole model: `experts` in each of its layers, of which `paged_share` is
    in RAM, 1 where the machine holds the whole model. `whole_share` is what it would hold of that."""

    experts: int
    paged_share: float
    whole_share: float


def plan_slice(shape_name: str, memory_bytes: int, free_bytes: int) -> SlicePlan:
    """A slice for a machine with `memory_bytes` of RAM and room for `free_bytes` of files.

    Slots for two tokens are the fewest with which a layer's reads go at once, so the smaller the share, the more
    experts are needed. What RAM and drive have no comfortable room for is left out; the share is larger then.
    """
    config, model = whole_config(shape_name), whole_model(shape_name)
    placement = place_whole(model, memory_bytes)
    share = placement.ram.expert_count / model.expert_count
    fewest = min(config.n_experts, _FEWEST_EXPERTS)
    if placement.mapped or not placement.fits:
        return SlicePlan(fewest, 1.0, share)
    slots = _LEAST_SLOTS_IN_PICKS * config.experts_per_token
    wanted = math.ceil(slots / (EXPERT_LAYERS * share))
    others = model.outer_bytes + model.embedding_bytes + EXPERT_LAYERS * model.layers[-1].resident
    others += sum(layer.resident for layer in model.layers[: config.n_dense_layers])
    room = min(memory_bytes, free_bytes) / _PART_OF_ROOM - others
    fitting = int(room / (EXPERT_LAYERS * model.mean_expert_bytes))
    experts = max(fewest, min(wanted, fitting, config.n_experts))
    return SlicePlan(experts, max(share, slots / (EXPERT_LAYERS * experts)), share)


def place_whole(model: ModelBytes, memory_bytes: int) -> Placement:
    """Where the whole model's weights would be on a machine with so much RAM, and no card."""
    machine = Machine(memory_bytes, 1.0, 1.0, flops=1.0)
    return place_model(machine, model, min(DEFAULT_CONTEXT_TOKENS, model.context_tokens))


def whole_model(shape_name: str) -> ModelBytes:
    """The published model's bytes, in the slice's types."""
    return model_bytes_of_config(whole_config(shape_name), recipe_named(SLICE_RECIPE), shape_name)


def write_slice(
    shape_name: str, folder: Path, experts: int, progress: Callable[[int, int], None] | None = None
) -> Path:
    """A file with the dense layers, two layers with `experts` experts, and the whole vocabulary.

    As many experts are used per token as in the whole model. Raises K2Error.
    """
    plan = plan_synthetic(_slice_request(shape_name, folder, experts))
    write_synthetic(plan, progress=lambda state: progress and progress(state.written_bytes, state.total_bytes))
    return plan.request.destination


def _slice_request(shape_name: str, folder: Path, experts: int) -> SynthRequest:
    changes = Changes(layers=whole_config(shape_name).n_dense_layers + EXPERT_LAYERS, experts=experts)
    path = folder / f"{shape_name}-slice.gguf"
    return SynthRequest(path, shape_named(shape_name), shape_name, changes, recipe=SLICE_RECIPE)


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
