"""A ModelConfig from the `deepseek2.*` keys of a GGUF file."""

from collections.abc import Mapping
from typing import Any

from k2lite.config import ModelConfig, Scoring, YarnConfig
from quant.errors import GgufError, UnsupportedError

GGUF_ARCHITECTURE = "deepseek2"
GATING_NUMBERS: Mapping[Scoring, int] = {"softmax": 1, "sigmoid": 2}


class _Keys:
    """Typed access to the `deepseek2.*` keys of a GGUF file whose errors name the key."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"{GGUF_ARCHITECTURE}.{key}", default)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise GgufError(f"key {GGUF_ARCHITECTURE}.{key} is {value!r}, expected a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GgufError(f"key {GGUF_ARCHITECTURE}.{key} is {value!r}, expected a number")
        return float(value)


def config_from_gguf(metadata: Mapping[str, Any]) -> ModelConfig:
    """Read the metadata of a GGUF file, of the current layout or the old one without `*_mla` keys.

    Raises GgufError for damage, UnsupportedError for what is not implemented.
    """
    keys = _Keys(metadata)
    _check_implemented(keys)
    kv_lora_rank, rope_dim = keys.integer("attention.kv_lora_rank"), keys.integer("rope.dimension_count")
    # Files older than the latent layout keep the widths of one head in key_length and value_length.
    head_dim = keys.integer("attention.key_length_mla", keys.get("attention.key_length"))
    v_dim = keys.integer("attention.value_length_mla", keys.get("attention.value_length"))
    tokens = metadata.get("tokenizer.ggml.tokens")
    return ModelConfig(
        name=str(metadata.get("general.name", "")),
        vocab_size=keys.integer("vocab_size", len(tokens) if isinstance(tokens, list) else None),
        hidden_size=keys.integer("embedding_length"),
        n_layers=keys.integer("block_count"),
        n_dense_layers=keys.integer("leading_dense_block_count", 0),
        n_heads=keys.integer("attention.head_count"),
        q_lora_rank=keys.integer("attention.q_lora_rank", 0) or None,
        kv_lora_rank=kv_lora_rank,
        qk_nope_dim=head_dim - rope_dim,
        qk_rope_dim=rope_dim,
        v_dim=v_dim,
        dense_width=keys.integer("feed_forward_length"),
        expert_width=keys.integer("expert_feed_forward_length"),
        n_experts=keys.integer("expert_count"),
        experts_per_token=keys.integer("expert_used_count"),
        n_shared_experts=keys.integer("expert_shared_count", 0),
        n_groups=keys.integer("expert_group_count", 1) or 1,
        n_groups_used=keys.integer("expert_group_used_count", 1) or 1,
        scoring=_gating(keys.integer("expert_gating_func", 1)),
        normalize_weights=bool(keys.get("expert_weights_norm", False)),
        routed_scale=keys.number("expert_weights_scale", 1.0) or 1.0,
        rms_eps=keys.number("attention.layer_norm_rms_epsilon"),
        rope_theta=keys.number("rope.freq_base", 10000.0),
        yarn=_yarn(keys),
        context_length=keys.integer("context_length"),
    )


def _check_implemented(keys: _Keys) -> None:
    """Raise UnsupportedError for another architecture, and for layers that k2lite does not have."""
    architecture = keys.metadata.get("general.architecture")
    if architecture != GGUF_ARCHITECTURE:
        raise UnsupportedError(
            f"general.architecture is {architecture!r}; k2lite runs {GGUF_ARCHITECTURE!r} "
            "(Kimi K2, Moonlight, DeepSeek-V2-Lite, V3, R1)"
        )
    if keys.integer("nextn_predict_layers", 0):
        raise UnsupportedError(
            f"{GGUF_ARCHITECTURE}.nextn_predict_layers is set: files with MTP layers are not implemented"
        )


def _gating(number: int) -> Scoring:
    for scoring, value in GATING_NUMBERS.items():
        if value == number:
            return scoring
    raise UnsupportedError(
        f"{GGUF_ARCHITECTURE}.expert_gating_func is {number}; implemented: 1 (softmax) and 2 (sigmoid)"
    )


def _yarn(keys: _Keys) -> YarnConfig | None:
    kind = keys.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise UnsupportedError(f"{GGUF_ARCHITECTURE}.rope.scaling.type is {kind!r}; implemented: 'yarn'")
    return YarnConfig(
        factor=keys.number("rope.scaling.factor"),
        original_context=keys.integer("rope.scaling.original_context_length"),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        # The key holds 0.1 * mscale_all_dim; the file stores it as F32, so the division is rounded back.
        mscale_all_dim=round(keys.number("rope.scaling.yarn_log_multiplier", 0.0) / 0.1, 6),
    )
