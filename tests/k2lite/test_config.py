"""Reading config.json and GGUF metadata: every family's numbers, and refusals that name the field."""

import dataclasses
import json
from pathlib import Path

import pytest

from k2lite.config import ModelConfig
from k2lite.config_gguf import config_from_gguf
from k2lite.config_json import config_from_json
from k2lite.gguf_metadata import model_metadata
from quant.errors import GgufError, K2Error, UnsupportedError
from tests.tiny import build
from tests.tiny_families import FAMILIES


def published(shared_data: Path, name: str) -> ModelConfig:
    return config_from_json(json.loads((shared_data / "kimi" / "configs" / f"{name}.json").read_text()))


def test_kimi_k2_config_holds_the_published_numbers(shared_data):
    c = published(shared_data, "kimi-k2-instruct")
    assert (c.n_layers, c.n_dense_layers, c.hidden_size, c.n_heads) == (61, 1, 7168, 64)
    assert (c.n_experts, c.experts_per_token, c.n_shared_experts, c.expert_width) == (384, 8, 1, 2048)
    assert (c.scoring, c.normalize_weights, c.routed_scale, c.rms_eps) == ("sigmoid", True, 2.827, 1e-6)
    assert (c.head_dim, c.latent_dim, c.q_lora_rank, c.v_dim) == (192, 576, 1536, 128)
    assert c.yarn is not None and (c.yarn.factor, c.yarn.beta_fast, c.yarn.mscale_all_dim) == (32, 1, 1)
    assert c.context_length == 131072


def test_fields_of_later_releases_are_read_from_text_config(shared_data):
    c = published(shared_data, "kimi-k2.5")
    assert (c.n_layers, c.rms_eps, c.context_length) == (61, 1e-5, 262144)
    assert c.yarn is not None and (c.yarn.factor, c.yarn.beta_fast) == (64, 32)


def test_families_differ_where_their_configs_do(shared_data):
    moonlight, v2, v3 = (
        published(shared_data, name) for name in ("moonlight-16b-a3b", "deepseek-v2-lite", "deepseek-v3")
    )
    assert moonlight.q_lora_rank is None and moonlight.yarn is None and moonlight.shared_width == 2816
    assert (v2.scoring, v2.normalize_weights, v2.routed_scale, v2.n_groups) == ("softmax", False, 1.0, 1)
    assert v2.yarn is not None and v2.yarn.mscale_all_dim == 0.707
    assert (v3.n_groups, v3.n_groups_used, v3.n_dense_layers) == (8, 4, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_metadata_gives_the_same_config_back(family):
    config = config_from_json(build(family, experts=8).config, name="tiny")
    metadata = {entry.key: entry.value for entry in model_metadata(config, "tiny", file_type=0)}
    assert config_from_gguf(metadata) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "llama"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("moe_layer_freq", 2),
        ("num_key_value_heads", 2),
        ("topk_method", "group_limited_greedy"),
        ("scoring_func", "softmax"),
        ("rope_scaling", {"type": "linear", "factor": 2}),
        (
            "rope_scaling",
            {"type": "yarn", "factor": 32, "original_max_position_embeddings": 4096, "mscale": 2.0},
        ),
        ("num_experts_per_tok", 9),
        ("n_group", 3),
        ("hidden_size", 0),
        ("vocab_size", None),
        ("rms_norm_eps", "small"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(field, value):
    config = build("k2", experts=8).config | {field: value}
    spoken = {
        "num_experts_per_tok": "experts_per_token",
        "n_group": "n_groups",
        "rope_scaling": "rope_scaling",
    }
    with pytest.raises(K2Error, match=spoken.get(field, field)):
        config_from_json(config)


def test_other_architectures_in_gguf_are_refused():
    with pytest.raises(UnsupportedError, match="llama"):
        config_from_gguf({"general.architecture": "llama"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rms_norm_eps", 0.0),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", 1.0),
        ("rope_theta", float("inf")),
        ("routed_scaling_factor", float("nan")),
        ("routed_scaling_factor", -1.0),
        ("routed_scaling_factor", 10**400),
        ("hidden_size", 10**400),
    ],
)
def test_numbers_that_cannot_be_computed_with_are_refused(field, value):
    with pytest.raises(K2Error, match={"routed_scaling_factor": "rout.*scal", "rms_norm_eps": "rms"}.get(field, field)):
        config_from_json(build("k2", experts=8).config | {field: value})


@pytest.mark.parametrize("field", ["factor", "beta_fast", "beta_slow", "mscale_all_dim", "original_context"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_rope_scaling_that_cannot_be_computed_with_is_refused(field, value):
    yarn = config_from_json(build("k2", experts=8).config).yarn
    with pytest.raises(UnsupportedError, match=field):
        dataclasses.replace(yarn, **{field: value})


@pytest.mark.parametrize("value", [1e308, 1e-308])
def test_rope_scaling_out_of_all_proportion_is_refused(value):
    yarn = config_from_json(build("k2", experts=8).config).yarn
    with pytest.raises(UnsupportedError, match="beta_fast"):
        dataclasses.replace(yarn, beta_fast=value)


@pytest.mark.parametrize("tokens", [3, 0.5, True, "abc", None])
def test_a_vocabulary_that_is_no_list_has_no_size(tokens):
    config = config_from_json(build("k2", experts=8).config, name="tiny")
    metadata = {entry.key: entry.value for entry in model_metadata(config, "tiny", file_type=0)}
    del metadata["deepseek2.vocab_size"]
    with pytest.raises(GgufError, match="vocab_size"):
        config_from_gguf(metadata | {"tokenizer.ggml.tokens": tokens})
