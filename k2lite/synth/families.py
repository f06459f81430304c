"""config.json of every published family at full size, as what differs from the fields that all share."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from k2lite.synth.shapes import Config, Shape
from quant.errors import UnsupportedError

# What the two models of 16 billion weights share, Moonlight and DeepSeek-V2-Lite.
_SIXTEEN_BILLION: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 2048,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
    }
)


def shape_named(name: str) -> Shape:
    """The published shape of that name. Raises UnsupportedError that lists the known ones."""
    shapes = published_shapes()
    if name not in shapes:
        raise UnsupportedError(f"unknown shape {name!r}: known are {', '.join(shapes)}")
    return shapes[name]


def published_shapes() -> Mapping[str, Shape]:
    """All shapes by name."""
    thinking = _kimi(
        eos_token_id=163586,
        max_position_embeddings=262144,
        pad_token_id=163839,
        rms_norm_eps=1e-05,
        rope_scaling=_yarn(64.0, 1.0),
    )
    return {
        "k2": Shape(
            _kimi(max_position_embeddings=131072, rope_scaling=_yarn(32.0, 1.0)),
            "fp8",
            stores_inv_freq=True,
            shard_name="model-{number}-of-{count}.safetensors",
        ),
        "k2-thinking": Shape(thinking, "int4", thinks=True),
        "k2.5": Shape(_with_vision(thinking | {"rope_scaling": _yarn(64.0, 32.0)}), "int4", thinks=True),
        "moonlight": Shape(_moonlight(), "bf16", stores_inv_freq=True),
        "deepseek-v3": Shape(_deepseek_v3(), "fp8"),
        "deepseek-v2-lite": Shape(_deepseek_v2_lite(), "bf16"),
    }


def _common(**own: Any) -> Config:
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "aux_loss_alpha": 0.001,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "initializer_range": 0.02,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_nextn_predict_layers": 0,
        "pretraining_tp": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "v_head_dim": 128,
    } | own


def _kimi(**own: Any) -> Config:
    kimi = _common(
        bos_token_id=163584,
        eos_token_id=163585,
        model_type="kimi_k2",
        n_routed_experts=384,
        num_attention_heads=64,
        num_key_value_heads=64,
        rope_theta=50000.0,
        routed_scaling_factor=2.827,
        vocab_size=163840,
    )
    return kimi | own


def _moonlight() -> Config:
    own = {
        "eos_token_id": 163586,
        "intermediate_size": 11264,
        "max_position_embeddings": 8192,
        "model_type": "deepseek_v3",
        "rms_norm_eps": 1e-05,
        "routed_scaling_factor": 2.446,
    }
    return _kimi(**_SIXTEEN_BILLION, **own)


def _deepseek_v3() -> Config:
    return _common(
        bos_token_id=0,
        eos_token_id=1,
        first_k_dense_replace=3,
        max_position_embeddings=163840,
        n_group=8,
        n_routed_experts=256,
        num_attention_heads=128,
        num_key_value_heads=128,
        rope_scaling=_yarn(40, 32),
        rope_theta=10000,
        routed_scaling_factor=2.5,
        topk_group=4,
        vocab_size=129280,
    )


def _deepseek_v2_lite() -> Config:
    config = _common(
        architectures=["DeepseekV2ForCausalLM"],
        bos_token_id=100000,
        eos_token_id=100001,
        intermediate_size=10944,
        max_position_embeddings=163840,
        **_SIXTEEN_BILLION,
        model_type="deepseek_v2",
        norm_topk_prob=False,
        rope_scaling=_yarn(40, 32, 0.707),
        rope_theta=10000,
        routed_scaling_factor=1.0,
        scoring_func="softmax",
        topk_method="greedy",
        vocab_size=102400,
    )
    del config["num_nextn_predict_layers"]
    return config


def _with_vision(text: Config) -> Config:
    """The decoder beside a vision part, of which synthetic models have the description only."""
    return {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "bos_token_id": text["bos_token_id"],
        "dtype": "bfloat16",
        "eos_token_id": text["eos_token_id"],
        "ignore_index": -100,
        "media_placeholder_token_id": 163605,
        "model_type": "kimi_k25",
        "pad_token_id": text["pad_token_id"],
        "text_config": text,
        "tie_word_embeddings": False,
        "use_unified_vision_chunk": True,
        "vision_config": {
            "merge_kernel_size": [2, 2],
            "mm_hidden_size": 1152,
            "mm_projector_type": "patchmerger",
            "patch_size": 14,
            "text_hidden_size": text["hidden_size"],
            "vt_hidden_size": 1152,
            "vt_intermediate_size": 4304,
            "vt_num_attention_heads": 16,
            "vt_num_hidden_layers": 27,
        },
    }


def _yarn(factor: float, beta_fast: float, mscale: float = 1.0) -> Config:
    return {
        "beta_fast": beta_fast,
        "beta_slow": 1.0,
        "factor": factor,
        "mscale": mscale,
        "mscale_all_dim": mscale,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    }
