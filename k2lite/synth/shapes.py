"""The shapes that synthetic models come in, and the changes that make a model of a family smaller or larger."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from k2lite.vocabulary.kimi import RESERVED
from quant.checkpoint.weight_scheme import weight_scheme
from quant.errors import CheckpointError

Form = Literal["bf16", "fp8", "int4"]
FORMS: tuple[Form, ...] = ("bf16", "fp8", "int4")
Config = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A family: its `config`, how its checkpoints store weights, and how their files are called.

    `thinks` says whether the vocabulary has tokens for thinking. `stores_inv_freq`: its checkpoints hold a table of
    rotary frequencies that no loader needs.
    """

    config: Config
    form: Form
    thinks: bool = False
    stores_inv_freq: bool = False
    shard_name: str = "model-{number:05d}-of-{count:06d}.safetensors"


@dataclass(frozen=True)
class Changes:
    """What a synthetic model has differently from its shape, by the names of the command line; None leaves it."""

    layers: int | None = None
    dense_layers: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    hidden: int | None = None
    expert_width: int | None = None
    dense_width: int | None = None
    vocab: int | None = None


_CONFIG_NAMES = MappingProxyType(
    {
        "layers": "num_hidden_layers",
        "dense_layers": "first_k_dense_replace",
        "experts": "n_routed_experts",
        "experts_per_token": "num_experts_per_tok",
        "hidden": "hidden_size",
        "expert_width": "moe_intermediate_size",
        "dense_width": "intermediate_size",
        "vocab": "vocab_size",
    }
)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "media_placeholder_token_id")


def shape_of(config: Config) -> Shape:
    """The shape that somebody's own config.json describes. Raises as config.json's readers do."""
    form: Form = {"none": "bf16", "fp8": "fp8", "int4": "int4"}[weight_scheme(config)]  # type: ignore[assignment]
    return Shape(config, form, thinks=form == "int4")


def changed(config: Config, changes: Changes, form: Form) -> Config:
    """A copy of `config` with `changes`, in which weights are declared to be stored as `form`.

    Token ids move with the size of the vocabulary. Layers for predicting several tokens are taken out: nothing here
    reads them.
    """
    config = copy.deepcopy(config)
    text = text_config(config)
    if changes.vocab is not None:
        for place in (config, text) if text is not config else (config,):
            _move_tokens(place, text, changes.vocab)
    for change in fields(changes):
        value = getattr(changes, change.name)
        if value is not None:
            text[_CONFIG_NAMES[change.name]] = value
    if "num_nextn_predict_layers" in text:
        text["num_nextn_predict_layers"] = 0
    if isinstance(config.get("vision_config"), dict):
        config["vision_config"]["text_hidden_size"] = text.get("hidden_size")
    _declare(config, text, form)
    return config


def text_config(config: Config) -> Config:
    """The part of config.json that describes the decoder. Raises CheckpointError when it is no object."""
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise CheckpointError("config.json: text_config is not an object")
    return text


def has_kimi_tokens(config: Mapping[str, Any]) -> bool:
    """Whether the model speaks with Kimi's vocabulary: Moonlight's model_type is that of DeepSeek."""
    text = text_config(dict(config))
    if text.get("model_type") == "kimi_k2":
        return True
    bos, vocab = text.get("bos_token_id"), text.get("vocab_size")
    return isinstance(bos, int) and isinstance(vocab, int) and vocab - bos == RESERVED


def _move_tokens(place: Config, text: Config, vocab: int) -> None:
    """Kimi's special ids keep their distance from the end; others keep their place while there is one."""
    old = text.get("vocab_size")
    if not isinstance(old, int):
        raise CheckpointError(f"config.json: vocab_size is {old!r}, expected a whole number")
    kimi = has_kimi_tokens(text)
    for offset, name in enumerate(_TOKEN_IDS):
        token = place.get(name)
        if not isinstance(token, int):
            continue
        if kimi:
            place[name] = token + vocab - old
        elif token >= vocab:
            place[name] = vocab - len(_TOKEN_IDS) + offset


def _declare(config: Config, text: Config, form: Form) -> None:
    for place in (config, text):
        place.pop("quantization_config", None)
    if form == "fp8":
        text["quantization_config"] = _fp8()
    elif form == "int4":
        text["quantization_config"] = _int4()


def _fp8() -> Config:
    return {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}


def _int4() -> Config:
    weights: Config = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": 32,
        "num_bits": 4,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    group = {"input_activations": None, "output_activations": None, "targets": ["Linear"], "weights": weights}
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": [
            "lm_head",
            "re:.*self_attn.*",
            "re:.*shared_experts.*",
            "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
        ],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }
