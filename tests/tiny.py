"""Tiny random checkpoints of every model family, in the on-disk format of the real ones.

    path = write_checkpoint(tmp_path / "k2", "k2")     # a folder with config.json, shards and tokenizer
    tiny = build("moonlight", layers=27, experts=4, expert_width=128)
    tiny.config                                        # config.json as a dict (K2.5: nested text_config)
    tiny.text_config                                   # the part that describes the decoder
    tiny.state                                         # exact float32 weights by Hugging Face name
    tiny.write(folder, index=False)                    # several folders from one model

`write_checkpoint` takes the arguments of `build`; the same arguments give the same weights.

    k2                FP8, YaRN x32 with beta_fast 1, eps 1e-6, stored inv_freq, no zeros in shard names
    k2-0905           FP8, YaRN x64
    k2-thinking       INT4 experts, YaRN x64 with beta_fast 1, eps 1e-5, think markers in the tokenizer
    k2.5              as k2-thinking, beta_fast 32, decoder nested in text_config, prefix and vision parts
    moonlight         BF16, no q-LoRA, no YaRN, 2 shared experts, correction bias in BF16
    deepseek-v3       FP8, 8 groups, 3 dense layers, and an extra prediction layer after the last one
    deepseek-v2-lite  BF16, no q-LoRA, softmax, greedy choice, no bias, no renormalisation

Structure kept from the real models: kv_a rows (272) are not a multiple of 128, rows of k_b (32) take no
256-block, experts of moonlight and v2-lite are 384 wide (a multiple of 128 but not of 256), v2-lite's dense
width is 544. Logits have a standard deviation near 3, and all experts get tokens. `state` holds what the
stored numbers stand for, per expert, without `language_model.`, vision parts and inv_freq (the prediction
layer is in it). `tests.tiny_reference.reference_model(tiny)` makes a transformers model of it.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from k2lite.synth.shapes import text_config
from tests.tiny_families import FAMILIES, Family, full_config
from tests.tiny_storage import Stored, store_bf16, store_fp8, store_int4
from tests.tiny_tokenizer import special_id, write_tokenizer

Shapes = Iterator[tuple[str, tuple[int, ...]]]

_STORES = {"BF16": store_bf16, "FP8": store_fp8, "INT4": store_int4}


@dataclass(frozen=True)
class TinyCheckpoint:
    """A model in memory: what is stored (by shard, under on-disk names) and what it stands for."""

    family: Family
    config: dict[str, Any]
    text_config: dict[str, Any]
    shards: list[dict[str, Tensor]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path, *, index: bool = True) -> Path:
        """Write the checkpoint into `folder` (made if absent) and return it."""
        folder.mkdir(parents=True, exist_ok=True)
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(self.shards, start=1):
            name = self.family.shape.shard_name.format(number=number, count=len(self.shards))
            save_file(shard, folder / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, name)
        if index:
            content = {"metadata": {"total_size": self.stored_bytes}, "weight_map": weight_map}
            _write_json(folder / "model.safetensors.index.json", content)
        _write_json(folder / "config.json", self.config)
        stop = special_id("<|im_end|>")
        _write_json(folder / "generation_config.json", {"eos_token_id": stop, "max_length": 131072})
        write_tokenizer(folder, thinking_names=self.family.shape.thinks)
        return folder

    @property
    def stored_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for shard in self.shards for t in shard.values())


def write_checkpoint(folder: Path, family: str, *, index: bool = True, **options: Any) -> Path:
    """`build` and write in one step, with the options of `build`; returns `folder`."""
    return build(family, **options).write(folder, index=index)


def build(
    family: str,
    *,
    layers: int | None = None,
    experts: int = 16,
    hidden: int = 256,
    expert_width: int | None = None,
    seed: int = 0,
    update_gain: float = 1.0,
) -> TinyCheckpoint:
    """A random model. `layers` and `expert_width` None: the family's default. A token uses four experts.

    `update_gain` scales what every layer adds to the stream. At 1 that is as large as the stream itself, and the
    choice of experts is chaotic over many layers; trained models add far less.
    """
    traits = FAMILIES[family]
    stored = full_config(traits, layers=layers, experts=experts, hidden=hidden, expert_width=expert_width)
    config = text_config(stored)
    tiny = TinyCheckpoint(traits, stored, config)
    decoder_layers = config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)
    for layer in range(decoder_layers):
        tiny.shards.append(_store(tiny, _layer_shapes(config, layer), seed, update_gain))
    tiny.shards.append(_store(tiny, _outer_shapes(config), seed, update_gain))
    if traits.vision:
        tiny.shards.append(_vision_tensors(hidden))
    return tiny


def _store(tiny: TinyCheckpoint, shapes: Shapes, seed: int, update_gain: float) -> dict[str, Tensor]:
    shard: dict[str, Tensor] = {}
    for name, shape in shapes:
        values = _draw(name, shape, seed)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            values *= update_gain
        stored, exact = _encode(tiny.family, name, values)
        module = name.removesuffix(".weight")
        shard |= {tiny.family.prefix + module + suffix: tensor for suffix, tensor in stored.items()}
        tiny.state[name] = exact
        if tiny.family.shape.stores_inv_freq and name.endswith("self_attn.o_proj.weight"):
            inv_freq = name.replace("o_proj.weight", "rotary_emb.inv_freq")
            shard[tiny.family.prefix + inv_freq] = torch.linspace(1, 0.01, 8)
    return shard


def _encode(family: Family, name: str, values: Tensor) -> Stored:
    if name.endswith("e_score_correction_bias"):
        rounded = values.to(family.bias_dtype)
        return {"": rounded}, rounded.float()
    quantized = (".self_attn." in name or ".mlp." in name) and "_proj" in name
    if not quantized or (family.storage == "INT4" and ".mlp.experts." not in name):
        return store_bf16(values)
    return _STORES[family.storage](values)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Values that depend on name, shape and seed alone, scaled so that activations stay of order one."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
    noise = torch.randn(shape, generator=generator)
    if name.endswith("e_score_correction_bias"):
        return noise * 0.05
    if len(shape) == 1:
        return 1 + 0.1 * noise
    gains = {"embed_tokens.weight": math.sqrt(shape[1]), "lm_head.weight": 3.0, "down_proj.weight": 1.5}
    gain = next((g for suffix, g in gains.items() if name.endswith(suffix)), 1.0)
    return noise * (gain / math.sqrt(shape[1]))


def _outer_shapes(config: dict[str, Any]) -> Shapes:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def _layer_shapes(config: dict[str, Any], layer: int) -> Shapes:
    prefix, hidden, vocab = f"model.layers.{layer}.", config["hidden_size"], config["vocab_size"]
    yield prefix + "input_layernorm.weight", (hidden,)
    yield prefix + "post_attention_layernorm.weight", (hidden,)
    yield from _attention_shapes(config, prefix + "self_attn.")
    yield from _mlp_shapes(config, layer, prefix + "mlp.")
    if layer >= config["num_hidden_layers"]:
        yield prefix + "embed_tokens.weight", (vocab, hidden)
        yield prefix + "enorm.weight", (hidden,)
        yield prefix + "hnorm.weight", (hidden,)
        yield prefix + "eh_proj.weight", (hidden, 2 * hidden)
        yield prefix + "shared_head.norm.weight", (hidden,)
        yield prefix + "shared_head.head.weight", (vocab, hidden)


def _attention_shapes(config: dict[str, Any], prefix: str) -> Shapes:
    hidden, heads, latent = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    if config["q_lora_rank"]:
        yield prefix + "q_a_proj.weight", (config["q_lora_rank"], hidden)
        yield prefix + "q_a_layernorm.weight", (config["q_lora_rank"],)
        yield prefix + "q_b_proj.weight", (heads * (nope + rope), config["q_lora_rank"])
    else:
        yield prefix + "q_proj.weight", (heads * (nope + rope), hidden)
    yield prefix + "kv_a_proj_with_mqa.weight", (latent + rope, hidden)
    yield prefix + "kv_a_layernorm.weight", (latent,)
    yield prefix + "kv_b_proj.weight", (heads * (nope + value), latent)
    yield prefix + "o_proj.weight", (hidden, heads * value)


def _mlp_shapes(config: dict[str, Any], layer: int, prefix: str) -> Shapes:
    hidden, experts = config["hidden_size"], config["n_routed_experts"]
    width = config["moe_intermediate_size"]
    widths = {prefix: config["intermediate_size"]}
    if layer >= config["first_k_dense_replace"]:
        yield prefix + "gate.weight", (experts, hidden)
        if config["topk_method"] == "noaux_tc":
            yield prefix + "gate.e_score_correction_bias", (experts,)
        widths = {f"{prefix}experts.{expert}.": width for expert in range(experts)}
        widths[prefix + "shared_experts."] = width * config["n_shared_experts"]
    for module, inner in widths.items():
        yield module + "gate_proj.weight", (inner, hidden)
        yield module + "up_proj.weight", (inner, hidden)
        yield module + "down_proj.weight", (hidden, inner)


def _vision_tensors(hidden: int) -> dict[str, Tensor]:
    shapes = {
        "vision_tower.patch_embed.proj.weight": (48, 3, 14, 14),
        "vision_tower.encoder.final_layernorm.weight": (48,),
        "mm_projector.pre_norm.weight": (48,),
        "mm_projector.proj.0.weight": (hidden, 192),
    }
    return {name: _draw(name, shape, seed=0).to(torch.bfloat16) for name, shape in shapes.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
