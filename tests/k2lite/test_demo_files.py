"""The built-in demo model's files: small enough to ship, and stored exactly as K2 is."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

FOLDER = Path(__file__).parents[2] / "k2lite" / "demo" / "model"
LIMIT_BYTES = 24_000_000
MATRICES = ("_proj.weight", "kv_a_proj_with_mqa.weight")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((FOLDER / "config.json").read_text())


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for shard in FOLDER.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            out |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return out


@pytest.fixture(scope="module")
def base_tokens() -> int:
    return len((FOLDER / "tiktoken.model").read_text().splitlines())


def test_the_folder_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LIMIT_BYTES


def test_the_architecture_is_k2s(config: dict[str, Any]) -> None:
    assert config["model_type"] == "kimi_k2"
    assert config["architectures"] == ["DeepseekV3ForCausalLM"]
    assert (config["scoring_func"], config["topk_method"], config["n_group"]) == ("sigmoid", "noaux_tc", 1)
    assert (config["first_k_dense_replace"], config["n_shared_experts"], config["norm_topk_prob"]) == (1, 1, True)
    assert config["n_routed_experts"] >= 32
    assert config["q_lora_rank"]
    assert config["rope_scaling"]["type"] == "yarn"
    assert config["max_position_embeddings"] >= 4096
    # llama.cpp takes a model of 26 or 27 layers for one without q-LoRA, and knows no other beta_fast.
    assert config["num_hidden_layers"] not in (26, 27)
    assert config["rope_scaling"]["beta_fast"] == 32


def test_rows_fit_the_4_bit_k_types_and_one_matrix_ends_in_a_partial_block(config: dict[str, Any]) -> None:
    for field in ("hidden_size", "moe_intermediate_size", "intermediate_size", "q_lora_rank", "kv_lora_rank"):
        assert config[field] % 256 == 0, field
    assert (config["kv_lora_rank"] + config["qk_rope_head_dim"]) % 128 != 0


def test_matrices_are_fp8_blocks_and_the_rest_is_what_k2_keeps(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if name.endswith(MATRICES):
            rows, cols = tensor.shape
            scales = tensors[f"{name}_scale_inv"]
            assert tensor.dtype == torch.float8_e4m3fn, name
            assert scales.dtype == torch.float32, name
            assert tuple(scales.shape) == (-(-rows // 128), -(-cols // 128)), name
        elif name.endswith(("_scale_inv", "e_score_correction_bias")):
            assert tensor.dtype == torch.float32, name
        else:
            assert tensor.dtype == torch.bfloat16, name
        assert bool(tensor.float().isfinite().all()), name


def test_every_expert_of_every_layer_is_there(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    layers = range(config["first_k_dense_replace"], config["num_hidden_layers"])
    for layer in layers:
        stem = f"model.layers.{layer}.mlp"
        assert tensors[f"{stem}.gate.e_score_correction_bias"].std() > 0
        for expert in range(config["n_routed_experts"]):
            for kind in ("gate", "up", "down"):
                assert f"{stem}.experts.{expert}.{kind}_proj.weight" in tensors


def test_the_index_names_the_shard_of_every_tensor(tensors: dict[str, torch.Tensor]) -> None:
    index = json.loads((FOLDER / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert all((FOLDER / shard).is_file() for shard in index["weight_map"].values())


def test_ranks_are_lines_of_base64_that_begin_with_the_256_bytes(base_tokens: int, config: dict[str, Any]) -> None:
    rows = [line.split() for line in (FOLDER / "tiktoken.model").read_text().splitlines()]
    assert [int(rank) for _, rank in rows] == list(range(base_tokens))
    assert {base64.b64decode(raw) for raw, _ in rows[:256]} == {bytes([b]) for b in range(256)}
    assert config["vocab_size"] == base_tokens + 256


@pytest.mark.parametrize(
    ("offset", "name"),
    [
        (0, "[BOS]"),
        (1, "[EOS]"),
        (2, "<|im_end|>"),
        (3, "<|im_user|>"),
        (4, "<|im_assistant|>"),
        (10, "<|im_system|>"),
        (11, "<|tool_calls_section_begin|>"),
        (13, "<|tool_call_begin|>"),
        (14, "<|tool_call_argument_begin|>"),
        (17, "<|im_middle|>"),
        (22, "<think>"),
        (23, "</think>"),
        (254, "[UNK]"),
        (255, "[PAD]"),
    ],
)
def test_markers_have_k2s_offsets(base_tokens: int, offset: int, name: str) -> None:
    added = json.loads((FOLDER / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert added[str(base_tokens + offset)]["content"] == name
