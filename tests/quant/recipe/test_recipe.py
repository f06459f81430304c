"""Recipes pick what llama-quantize picks: every tensor of four models, every file type, to the byte."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from quant.errors import EncodeError, UnsupportedError
from quant.gguf.gguf_writer import TensorSpec
from quant.recipe.recipe import RECIPES, check_importance, missing_importance, plan_types, recipe_named
from quant.recipe.type_overrides import TypeOverride
from quant.types import BlockType
from tests.quant.recorded_recipes import expected_type

MODELS = ("kimi-k2-instruct", "moonlight-16b-a3b", "deepseek-v2-lite", "deepseek-v3")
RECORDED = {
    "Q2_K",
    "Q3_K_M",
    "Q4_0",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
}
ROUTER = ("blk.3.ffn_gate_inp.weight", (4, 48))


def model_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """GGUF names and numpy shapes of all tensors of a model with this config.json."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes = {
        "token_embd.weight": (vocab, hidden),
        "output_norm.weight": (hidden,),
        "output.weight": (vocab, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        own = attention_shapes(config)
        own |= dense_shapes(config) if layer < config["first_k_dense_replace"] else expert_shapes(config)
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def attention_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, heads, latent = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    rank, queries = config["q_lora_rank"], heads * (nope + rope)
    query = {
        "attn_q_a.weight": (rank, hidden),
        "attn_q_a_norm.weight": (rank,),
        "attn_q_b.weight": (queries, rank),
    }
    return (query if rank else {"attn_q.weight": (queries, hidden)}) | {
        "attn_norm.weight": (hidden,),
        "attn_kv_a_mqa.weight": (latent + rope, hidden),
        "attn_kv_a_norm.weight": (latent,),
        "attn_k_b.weight": (heads, latent, nope),
        "attn_v_b.weight": (heads, value, latent),
        "attn_output.weight": (hidden, heads * value),
        "ffn_norm.weight": (hidden,),
    }


def dense_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return {
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }


def expert_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, experts = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
    shared = inner * config["n_shared_experts"]
    bias = {"exp_probs_b.bias": (experts,)} if config["topk_method"] == "noaux_tc" else {}
    return bias | {
        "ffn_gate_inp.weight": (experts, hidden),
        "ffn_gate_exps.weight": (experts, inner, hidden),
        "ffn_up_exps.weight": (experts, inner, hidden),
        "ffn_down_exps.weight": (experts, hidden, inner),
        "ffn_gate_shexp.weight": (shared, hidden),
        "ffn_up_shexp.weight": (shared, hidden),
        "ffn_down_shexp.weight": (hidden, shared),
    }


SMALL_MODEL = list(
    model_shapes(
        {
            "hidden_size": 256,
            "vocab_size": 64,
            "num_hidden_layers": 9,
            "first_k_dense_replace": 1,
            "num_attention_heads": 2,
            "kv_lora_rank": 256,
            "q_lora_rank": 256,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 32,
            "v_head_dim": 128,
            "intermediate_size": 512,
            "moe_intermediate_size": 256,
            "n_routed_experts": 16,
            "n_shared_experts": 1,
            "topk_method": "noaux_tc",
        }
    ).items()
)


def total_bytes(tensors: list[tuple[str, tuple[int, ...]]], types: list[BlockType]) -> int:
    return sum(TensorSpec(name, kind, shape).nbytes for (name, shape), kind in zip(tensors, types, strict=True))


def types_by_name(tensors: list[tuple[str, tuple[int, ...]]], recipe: str, imatrix: bool = False) -> dict[str, str]:
    types = plan_types(tensors, recipe_named(recipe), imatrix=imatrix)
    return {name: kind.name for (name, _), kind in zip(tensors, types, strict=True)}


@pytest.mark.parametrize("model", MODELS)
def test_every_recorded_file_type_gets_the_same_types_and_bytes(shared_data: Path, model: str) -> None:
    recorded = json.loads((shared_data / "kimi" / "recipes.json").read_text())[model]
    shapes = model_shapes(json.loads((shared_data / "kimi" / "configs" / f"{model}.json").read_text()))
    tensors = list(shapes.items())
    assert len(shapes) == recorded["source_tensors"]
    assert sum(map(math.prod, shapes.values())) == recorded["parameters"]
    seen = set()
    for label, entry in recorded["ftypes"].items():
        recipe = recipe_named(label.removesuffix("+imatrix"))
        seen.add(recipe.name)
        assert recipe.file_type == entry["file_type"]
        types = plan_types(tensors, recipe, imatrix=entry["imatrix"])
        wrong = {
            name: (kind.name, expected_type(entry["types"], name))
            for name, kind in zip(shapes, types, strict=True)
            if kind.name.lower() != expected_type(entry["types"], name)
        }
        assert not wrong, f"{model} {label}"
        assert total_bytes(tensors, types) == entry["tensor_bytes"], f"{model} {label}"
    assert seen >= RECORDED


def test_int4_and_lossless_of_k2_thinking_have_the_known_sizes(shared_data: Path) -> None:
    config = json.loads((shared_data / "kimi" / "configs" / "kimi-k2-thinking.json").read_text())
    tensors = list(model_shapes(config).items())
    assert total_bytes(tensors, plan_types(tensors, RECIPES["INT4"])) == 583_703_889_920
    assert round(total_bytes(tensors, plan_types(tensors, RECIPES["LOSSLESS"])) / 2**30, 3) == 553.706


def test_recipes_for_int4_sources_keep_the_experts_codes_and_nothing_else_small() -> None:
    types = types_by_name(SMALL_MODEL, "int4", imatrix=True)
    assert types["blk.1.ffn_gate_exps.weight"] == types["blk.1.ffn_down_exps.weight"] == "Q4_0"
    assert types["blk.0.ffn_down.weight"] == types["blk.1.ffn_up_shexp.weight"] == "Q8_0"
    assert types["blk.1.attn_k_b.weight"] == types["token_embd.weight"] == types["output.weight"] == "Q8_0"
    assert types["blk.1.ffn_gate_inp.weight"] == types["output_norm.weight"] == "F32"
    lossless = types_by_name(SMALL_MODEL, "lossless")
    assert lossless == {name: "BF16" if kind == "Q8_0" else kind for name, kind in types.items()}
    assert RECIPES["INT4"].file_type == RECIPES["LOSSLESS"].file_type == 2


def test_k2_4_spends_bits_around_the_experts_and_none_in_them() -> None:
    types = types_by_name(SMALL_MODEL, "K2_4")
    layer = {name.removeprefix("blk.8."): kind for name, kind in types.items() if name.startswith("blk.8.")}
    assert {kind for name, kind in types.items() if "_exps" in name} == {"Q4_K"}
    assert {kind for name, kind in types.items() if "_shexp" in name} == {"Q6_K"}
    assert types["output.weight"] == layer["attn_q_a.weight"] == layer["attn_q_b.weight"] == "Q6_K"
    assert layer["attn_output.weight"] == "Q6_K"
    assert layer["attn_kv_a_mqa.weight"] == layer["attn_k_b.weight"] == layer["attn_v_b.weight"] == "Q8_0"
    assert types["token_embd.weight"] == types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types_by_name([("blk.0.attn_q.weight", (256, 256))], "K2_4") == {"blk.0.attn_q.weight": "Q6_K"}


def test_k2_4_of_k2_is_smaller_than_q4_k_m(shared_data: Path) -> None:
    config = json.loads((shared_data / "kimi" / "configs" / "kimi-k2-instruct.json").read_text())
    tensors = list(model_shapes(config).items())
    own, usual = (total_bytes(tensors, plan_types(tensors, RECIPES[name])) for name in ("K2_4", "Q4_K_M"))
    assert own < 0.94 * usual


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_float_recipes_change_nothing_but_the_matrices(name: str) -> None:
    types = types_by_name([("blk.3.ffn_down_exps.weight", (4, 48, 40)), ("output.weight", (1000, 40)), ROUTER], name)
    assert list(types.values()) == [name, name, "F32"]


@pytest.mark.parametrize(
    "name",
    ["blk.1.ffn_gate_inp.weight", "blk.1.attn_norm.weight", "blk.1.attn_q_a_norm.weight", "blk.1.exp_probs_b.bias"],
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_router_norms_and_biases_stay_f32(recipe: str, name: str) -> None:
    assert types_by_name([(name, (256, 256))], recipe) == {name: "F32"}


def test_a_row_that_no_block_divides_becomes_f16() -> None:
    tensors = [("blk.0.attn_k_b.weight", (4, 512, 48))]
    assert types_by_name(tensors, "Q4_K_M") == types_by_name(tensors, "Q8_0") == {"blk.0.attn_k_b.weight": "F16"}


def test_the_order_of_the_tensors_does_not_change_their_types() -> None:
    for name in RECIPES:
        assert types_by_name(SMALL_MODEL[::-1], name) == types_by_name(SMALL_MODEL, name)


def test_the_same_name_in_lower_case_is_the_same_recipe() -> None:
    assert recipe_named("q4_k_m") is RECIPES["Q4_K_M"]


def test_llama_cpps_name_of_mxfp4_is_accepted() -> None:
    assert recipe_named("mxfp4_moe") is recipe_named("MXFP4")


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"'Q9_Z'.*Q4_K_M"):
        recipe_named("Q9_Z")


def test_types_of_few_bits_are_refused_without_an_importance_for_them() -> None:
    recipe = RECIPES["IQ2_XXS"]
    types = plan_types(SMALL_MODEL, recipe, imatrix=True)
    missing = missing_importance(SMALL_MODEL, types, recipe, lambda name: "_exps" in name)
    assert "blk.1.attn_q_a.weight" in missing and "blk.1.ffn_up_shexp.weight" in missing
    assert not any(
        "_exps" in name or "norm" in name or name in ("token_embd.weight", "output.weight") for name in missing
    )
    with pytest.raises(EncodeError, match=rf"{len(missing)} tensors of type IQ2_XXS need.*{missing[0]}"):
        check_importance(SMALL_MODEL, types, recipe, lambda name: "_exps" in name)
    check_importance(SMALL_MODEL, types, recipe, lambda name: True)


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K_M", "IQ4_XS", "INT4", "K2_4"])
def test_other_recipes_need_no_importance(name: str) -> None:
    types = plan_types(SMALL_MODEL, RECIPES[name])
    check_importance(SMALL_MODEL, types, RECIPES[name], lambda tensor: False)


def test_an_embedding_needs_an_importance_only_where_its_encoder_cannot_do_without() -> None:
    override = (TypeOverride.parse("token_embd=IQ2_XS"),)
    types = plan_types(SMALL_MODEL, RECIPES["Q8_0"], override)
    assert missing_importance(SMALL_MODEL, types, RECIPES["Q8_0"], lambda name: False) == ["token_embd.weight"]
    types = plan_types(SMALL_MODEL, RECIPES["Q8_0"], (TypeOverride.parse("token_embd=IQ3_XXS"),))
    assert missing_importance(SMALL_MODEL, types, RECIPES["Q8_0"], lambda name: False) == []
