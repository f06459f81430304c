"""Shapes of all families made tiny, and models of them on the drive."""

import copy
from pathlib import Path

import pytest

from k2lite.synth.families import shape_named
from k2lite.synth.shapes import Changes, Form, Shape, text_config
from k2lite.synth.synth import SynthPlan, SynthRequest, plan_synthetic, write_synthetic

FAMILIES = ("k2", "k2-thinking", "k2.5", "moonlight", "deepseek-v3", "deepseek-v2-lite")
VOCAB = 600
# Rows of the latent (64 + 16) are no whole number of FP8 blocks, rows of k_b (32) take no block of 256.
CHANGES = Changes(layers=4, experts=16, experts_per_token=4, hidden=256, expert_width=128, dense_width=320, vocab=VOCAB)
_HEADS = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}


def families(*quick: str) -> list[object]:
    """All families as parameters of a test, of which only `quick` ones run every time."""
    return [family if family in quick else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]


def tiny_shape(family: str) -> Shape:
    """The family with few and small heads."""
    shape = shape_named(family)
    config = copy.deepcopy(shape.config)
    text = text_config(config)
    text.update(_HEADS)
    if text["q_lora_rank"] is not None:
        text["q_lora_rank"] = 96
    return Shape(config, shape.form, shape.thinks, shape.stores_inv_freq, shape.shard_name)


def tiny_plan(
    destination: Path,
    family: str = "k2",
    *,
    changes: Changes = CHANGES,
    form: Form | None = None,
    recipe: str | None = None,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> SynthPlan:
    """A tiny model, laid out."""
    shape = tiny_shape(family)
    return plan_synthetic(
        SynthRequest(destination, shape, family, changes, form=form, recipe=recipe, seed=seed, tokenizer=tokenizer)
    )


def write_tiny(destination: Path, family: str = "k2", **options: object) -> Path:
    """A tiny model on the drive; the options are those of `tiny_plan`."""
    write_synthetic(tiny_plan(destination, family, **options), threads=1)  # type: ignore[arg-type]
    return destination
