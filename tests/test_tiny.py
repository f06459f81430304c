"""The tiny checkpoints themselves: what the other tests rely on."""

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import TinyCheckpoint, build
from tests.tiny_families import FAMILIES, decoder_config
from tests.tiny_reference import reference_model
from tests.tiny_tokenizer import BASE, VOCAB_SIZE, special_id

IDS = [(37 * i) % VOCAB_SIZE for i in range(64)]


def _decoder(family: str) -> dict[str, Any]:
    return decoder_config(FAMILIES[family], layers=None, experts=8, hidden=256, expert_width=None)


def _chosen_experts(tiny: TinyCheckpoint) -> tuple[torch.Tensor, list[Counter[int]]]:
    """Logits of IDS, and how often each expert was chosen in each layer with experts."""
    model, counts = reference_model(tiny), []
    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(lambda _m, _i, out: counts.append(Counter(out[2].flatten().tolist())))
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0], counts


# YaRN's factor, beta_fast and mscale (None: no YaRN), then fields of the decoder as they were published.
FACTS = {
    "k2": ((32, 1, 1), {"rms_norm_eps": 1e-6, "n_group": 1, "max_position_embeddings": 131_072}),
    "k2-0905": ((64, 1, 1), {"rms_norm_eps": 1e-6, "n_group": 1, "max_position_embeddings": 262_144}),
    "k2-thinking": ((64, 1, 1), {"rms_norm_eps": 1e-5, "n_group": 1, "max_position_embeddings": 262_144}),
    "k2.5": ((64, 32, 1), {"rms_norm_eps": 1e-5, "n_group": 1, "max_position_embeddings": 262_144}),
    "moonlight": (None, {"rms_norm_eps": 1e-5, "n_shared_experts": 2, "routed_scaling_factor": 2.446}),
    "deepseek-v3": ((40, 32, 1), {"n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "rope_theta": 10_000}),
    "deepseek-v2-lite": ((40, 32, 0.707), {"scoring_func": "softmax", "topk_method": "greedy", "q_lora_rank": None}),
}
_INT4_WEIGHTS = {"num_bits": 4, "group_size": 32, "type": "int", "strategy": "group", "symmetric": True}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_the_facts_of_the_published_one(family: str) -> None:
    config = _decoder(family)
    yarn, fields = FACTS[family]
    scaling = config.get("rope_scaling")
    assert (scaling and tuple(scaling[name] for name in ("factor", "beta_fast", "mscale_all_dim"))) == yarn
    assert {name: config[name] for name in fields} == fields
    assert (config["bos_token_id"], config["vocab_size"]) == (special_id("[BOS]"), VOCAB_SIZE)


def test_quantized_weights_are_declared_as_published() -> None:
    declared = {f: _decoder(f).get("quantization_config") for f in FAMILIES}
    for family in ("k2", "k2-0905", "deepseek-v3"):
        assert declared[family]["quant_method"] == "fp8" and declared[family]["weight_block_size"] == [128, 128]
    for family in ("k2-thinking", "k2.5"):
        assert declared[family]["quant_method"] == "compressed-tensors"
        assert declared[family]["format"] == "pack-quantized"
        assert declared[family]["config_groups"]["group_0"]["weights"].items() >= _INT4_WEIGHTS.items()
    assert declared["moonlight"] is declared["deepseek-v2-lite"] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_have_a_useful_size_and_tokens_go_to_all_experts(family: str) -> None:
    tiny = build(family)
    logits, counts = _chosen_experts(tiny)
    assert 2 < logits.std() < 5
    assert len(counts) == tiny.text_config["num_hidden_layers"] - tiny.text_config["first_k_dense_replace"]
    for layer in counts:
        assert len(layer) == 16, f"{layer}"
        assert max(layer.values()) < 0.6 * len(IDS), f"{layer}"


def test_the_same_arguments_give_the_same_weights_and_another_seed_gives_others() -> None:
    first, again, other = (build("k2", experts=4, expert_width=128, seed=s).state for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_twenty_seven_layers_stay_small() -> None:
    tiny = build("moonlight", layers=27, experts=4, expert_width=128)
    assert tiny.text_config["num_hidden_layers"] == 27
    assert tiny.stored_bytes < 64_000_000


def test_the_families_differ_where_the_real_ones_do(tmp_path: Path) -> None:
    shapes = {f: build(f, experts=8, expert_width=128) for f in FAMILIES}
    assert "model.layers.5.eh_proj.weight" in shapes["deepseek-v3"].state
    assert "model.layers.1.self_attn.q_proj.weight" in shapes["moonlight"].state
    assert "model.layers.1.mlp.gate.e_score_correction_bias" not in shapes["deepseek-v2-lite"].state
    assert shapes["k2.5"].config["text_config"]["quantization_config"]["format"] == "pack-quantized"
    names = {path.name for path in shapes["k2"].write(tmp_path / "k2").glob("*.safetensors")}
    assert names == {f"model-{i}-of-4.safetensors" for i in range(1, 5)}
    sizes = {path.stat().st_size for path in (tmp_path / "k2").glob("*.safetensors")}
    assert len(sizes) >= 3, "shards are uneven"


def test_the_tokenizer_files_cover_the_vocabulary(tmp_path: Path) -> None:
    folder = build("k2.5", experts=4, expert_width=128).write(tmp_path)
    lines = (folder / "tiktoken.model").read_text().splitlines()
    tokens = [base64.b64decode(line.split()[0]) for line in lines]
    assert [int(line.split()[1]) for line in lines] == list(range(BASE))
    assert len(set(tokens)) == BASE and tokens[0] == b"!"
    for rank, token in enumerate(tokens[256:], start=256):
        lower = set(tokens[:rank])
        assert any(token[:i] in lower and token[i:] in lower for i in range(1, len(token))), token
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = {int(i): entry["content"] for i, entry in config["added_tokens_decoder"].items()}
    assert named[special_id("<|im_end|>")] == "<|im_end|>" and named[VOCAB_SIZE - 1] == "[PAD]"
    assert named[special_id("<think>")] == "<think>"
