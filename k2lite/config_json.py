"""A ModelConfig from the `config.json` of a Hugging Face checkpoint."""

from collections.abc import Mapping
from typing import Any

from k2lite.config import ModelConfig, Scoring, YarnConfig
from quant.errors import CheckpointError, UnsupportedError

MODEL_TYPES = ("kimi_k2", "kimi_k25", "deepseek_v3", "deepseek_v2")


class _Fields:
    """Typed access to a config.json whose errors name the field."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int):
            raise CheckpointError(f"config.json: {name} is {value!r}, expected a whole number")
        if value.bit_length() > 63:  # JSON's have no limit
            raise CheckpointError(f"config.json: {name} is a number of {len(str(value))} digits: download it again")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"config.json: {name} is {value!r}, expected a number")
        try:
            return float(value)
        except OverflowError as error:
            raise CheckpointError(
                f"config.json: {name} is a number of {len(str(value))} digits: download it again"
            ) from error

    def only(self, name: str, allowed: tuple[Any, ...]) -> Any:
        """The value of a field for which only some values are implemented; an absent field has the first of them."""
        value = self.values.get(name)
        if value is None:
            return allowed[0]
        if value not in allowed:
            choices = ", ".join(dict.fromkeys(repr(a) for a in allowed))
            raise UnsupportedError(f"config.json: {name} is {value!r}; implemented: {choices}")
        return value


def config_from_json(config: Mapping[str, Any], name: str = "") -> ModelConfig:
    """Read a parsed `config.json`; without a `name` the model is called what the file says.

    Raises CheckpointError for damage, UnsupportedError for what is not implemented.
    """
    fields = _Fields(_text_model(config))
    _check_implemented(fields)
    scoring, method = _routing(fields)
    rope = _rope(fields)
    return ModelConfig(
        name=name or str(fields.values.get("_name_or_path") or config["model_type"]),
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        n_layers=fields.integer("num_hidden_layers"),
        n_dense_layers=fields.integer("first_k_dense_replace", 0),
        n_heads=fields.integer("num_attention_heads"),
        q_lora_rank=None if fields.values.get("q_lora_rank") is None else fields.integer("q_lora_rank"),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_dim=fields.integer("qk_nope_head_dim"),
        qk_rope_dim=fields.integer("qk_rope_head_dim"),
        v_dim=fields.integer("v_head_dim"),
        dense_width=fields.integer("intermediate_size"),
        expert_width=fields.integer("moe_intermediate_size"),
        n_experts=fields.integer("n_routed_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
        n_shared_experts=fields.integer("n_shared_experts", 0),
        n_groups=fields.integer("n_group", 1) if method == "noaux_tc" else 1,
        n_groups_used=fields.integer("topk_group", 1) if method == "noaux_tc" else 1,
        scoring=scoring,
        normalize_weights=_normalizes(fields, scoring),
        routed_scale=fields.number("routed_scaling_factor", 1.0),
        rms_eps=fields.number("rms_norm_eps"),
        rope_theta=fields.number("rope_theta", rope.get("rope_theta")),
        yarn=_yarn(rope),
        context_length=fields.integer("max_position_embeddings"),
        tied_embeddings=bool(fields.only("tie_word_embeddings", (False, True))),
    )


def _text_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text model's fields: K2.5 and later keep them in `text_config`."""
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UnsupportedError(f"config.json: model_type is {model_type!r}; implemented: {', '.join(MODEL_TYPES)}")
    inner = config.get("text_config", config)
    if not isinstance(inner, Mapping):
        raise CheckpointError("config.json: text_config is not an object")
    return inner


def _check_implemented(fields: _Fields) -> None:
    """Raise UnsupportedError for a model with parts that k2lite does not have."""
    fields.only("hidden_act", ("silu",))
    fields.only("attention_bias", (False,))
    fields.only("moe_layer_freq", (1,))
    fields.only("rope_interleave", (True,))
    fields.only("num_key_value_heads", (fields.integer("num_attention_heads"),))


def _normalizes(fields: _Fields, scoring: Scoring) -> bool:
    """Whether the weights of the chosen experts are made to add up to 1."""
    normalize = bool(fields.only("norm_topk_prob", (scoring == "sigmoid", True, False)))
    scale = fields.number("routed_scaling_factor", 1.0)
    if scoring == "softmax" and normalize and scale != 1.0:
        raise UnsupportedError(
            f"config.json: norm_topk_prob true with scoring_func softmax and routed_scaling_factor {scale} "
            "is not implemented"
        )
    return normalize


def _routing(fields: _Fields) -> tuple[Scoring, str]:
    """The two routers of the family: sigmoid with a correction bias (V3, K2) and greedy softmax (V2-Lite)."""
    default = "sigmoid" if fields.values.get("topk_method") == "noaux_tc" else "softmax"
    scoring: Scoring = fields.only("scoring_func", (default, "sigmoid", "softmax"))
    method = fields.only("topk_method", ("noaux_tc" if scoring == "sigmoid" else "greedy", "noaux_tc", "greedy"))
    if (scoring == "sigmoid") != (method == "noaux_tc"):
        raise UnsupportedError(
            f"config.json: scoring_func {scoring} with topk_method {method} is not implemented; "
            "known pairs are sigmoid with noaux_tc and softmax with greedy"
        )
    return scoring, method


def _rope(fields: _Fields) -> Mapping[str, Any]:
    """`rope_scaling`, or the newer `rope_parameters` that also holds the base; empty when there is none."""
    rope = fields.values.get("rope_scaling") or fields.values.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise CheckpointError(f"config.json: rope_scaling is {rope!r}, expected an object")
    return rope


def _yarn(rope: Mapping[str, Any]) -> YarnConfig | None:
    kind = rope.get("type", rope.get("rope_type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise UnsupportedError(f"config.json: rope_scaling.type is {kind!r}; implemented: 'yarn'")
    fields = _Fields(rope)
    mscale, all_dim = fields.number("mscale", 1.0), fields.number("mscale_all_dim", 0.0)
    if mscale != all_dim:
        # Only their quotient would scale the rotary part, and a GGUF file has no key for it.
        raise UnsupportedError(
            f"config.json: rope_scaling.mscale {mscale} differs from mscale_all_dim {all_dim}; implemented: both equal"
        )
    return YarnConfig(
        factor=fields.number("factor"),
        original_context=fields.integer("original_max_position_embeddings"),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        mscale_all_dim=all_dim,
    )
