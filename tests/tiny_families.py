"""The model families as k2lite publishes their shapes, with tiny widths and the tiny tokenizer."""

from dataclasses import dataclass, field
from typing import Any

import torch

from k2lite.synth.families import shape_named
from k2lite.synth.shapes import Changes, Shape, changed, text_config
from tests.tiny_tokenizer import VOCAB_SIZE, special_id


@dataclass(frozen=True)
class Family:
    """A shape and what a tiny model of it has differently. `fields` of config.json's decoder win over all others."""

    shape: Shape
    fields: dict[str, Any] = field(default_factory=dict)
    layers: int = 3
    expert_width: int = 256
    prefix: str = ""
    bias_dtype: torch.dtype = torch.float32

    @property
    def storage(self) -> str:
        """How the quantized weights are stored: BF16 (not at all), FP8 or INT4."""
        return self.shape.form.upper()

    @property
    def vision(self) -> bool:
        return "vision_config" in self.shape.config


_K2, _K2_THINKING = shape_named("k2"), shape_named("k2-thinking")
_LONGER = {name: _K2_THINKING.config[name] for name in ("max_position_embeddings", "rope_scaling")}
# All families speak with the tiny tokenizer, which is Kimi's.
_KIMI_TOKENS = {"bos_token_id": special_id("[BOS]"), "eos_token_id": special_id("[EOS]")}

FAMILIES: dict[str, Family] = {
    "k2": Family(_K2),
    "k2-0905": Family(Shape(_K2.config, "fp8"), _LONGER),
    "k2-thinking": Family(_K2_THINKING),
    "k2.5": Family(shape_named("k2.5"), prefix="language_model."),
    "moonlight": Family(shape_named("moonlight"), expert_width=384, bias_dtype=torch.bfloat16),
    "deepseek-v3": Family(shape_named("deepseek-v3"), _KIMI_TOKENS | {"num_nextn_predict_layers": 1}, layers=5),
    "deepseek-v2-lite": Family(
        shape_named("deepseek-v2-lite"), _KIMI_TOKENS | {"intermediate_size": 544}, expert_width=384
    ),
}

_DECODER_WIDTHS = {
    "kv_lora_rank": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
_Q_LORA_RANK = 256
_VISION_WIDTHS = {
    "mm_hidden_size": 48,
    "vt_hidden_size": 48,
    "vt_intermediate_size": 192,
    "vt_num_attention_heads": 4,
    "vt_num_hidden_layers": 1,
}


def full_config(
    family: Family, *, layers: int | None, experts: int, hidden: int, expert_width: int | None
) -> dict[str, Any]:
    """config.json as stored: the decoder's own, or with vision parts the decoder nested in `text_config`.

    Raises ValueError for an expert count that the groups do not divide.
    """
    changes = Changes(
        layers=layers or family.layers,
        experts=experts,
        experts_per_token=4,
        hidden=hidden,
        expert_width=expert_width or family.expert_width,
        dense_width=512,
        vocab=VOCAB_SIZE,
    )
    config = changed(family.shape.config, changes, family.shape.form)
    decoder = text_config(config)
    if decoder["q_lora_rank"] is not None:
        decoder["q_lora_rank"] = _Q_LORA_RANK
    decoder |= _DECODER_WIDTHS | {"transformers_version": "4.48.3"} | family.fields
    if family.vision:
        config["vision_config"] |= _VISION_WIDTHS
    if experts % decoder["n_group"] or experts < 4:
        raise ValueError(f"{experts} experts: at least 4, and a multiple of {decoder['n_group']} groups")
    return config


def decoder_config(
    family: Family, *, layers: int | None, experts: int, hidden: int, expert_width: int | None
) -> dict[str, Any]:
    """The decoder's part of `full_config`."""
    return text_config(full_config(family, layers=layers, experts=experts, hidden=hidden, expert_width=expert_width))
