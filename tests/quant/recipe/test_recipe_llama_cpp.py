"""Recipes against llama.cpp's quantizer itself: every tensor of models of many shapes gets the type it chooses."""

from pathlib import Path

import numpy as np
import pytest

from quant.recipe.recipe import RECIPES, missing_importance, plan_types
from tests.quant.llama_quantizer import (
    LLAMA_CPP_RECIPES,
    named_shapes,
    planned_types,
    quantize,
    tiny_config,
    write_sparse_model,
)


def check_all_recipes(
    folder: Path, family: str, layers: int, experts: int, hidden: int = 256, tied: bool = False
) -> None:
    config = tiny_config(family, layers, experts, hidden)
    tensors = [entry for entry in named_shapes(config) if not (tied and entry[0] == "output.weight")]
    source = write_sparse_model(folder / "f32.gguf", config, tensors)
    for name in LLAMA_CPP_RECIPES:
        for imatrix in (False, True):
            recipe = RECIPES[name]
            types = [block.name for block in plan_types(tensors, recipe, imatrix=imatrix)]
            ours = {tensor: kind for (tensor, _), kind in zip(tensors, types, strict=True)}
            theirs = planned_types(source, recipe.file_type, imatrix)
            assert theirs.keys() == ours.keys()
            wrong = {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
            assert not wrong, f"{family}, {layers} layers, {experts} experts, {name}, imatrix {imatrix}"


@pytest.mark.parametrize(
    ("family", "layers", "experts"),
    [("k2", 5, 16), ("k2", 12, 8), ("moonlight", 27, 8)],
)
def test_every_recipe_picks_what_llama_cpp_picks(tmp_path: Path, family: str, layers: int, experts: int) -> None:
    check_all_recipes(tmp_path, family, layers, experts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "experts"),
    [("k2", 8), ("k2", 32), ("deepseek-v3", 16), ("moonlight", 8), ("moonlight", 64), ("deepseek-v2-lite", 32)],
)
def test_every_layer_count_gives_the_same_picks(tmp_path: Path, family: str, experts: int) -> None:
    # llama.cpp expects no q-LoRA of models with 26 and 27 layers.
    without_lora = family in ("moonlight", "deepseek-v2-lite")
    for layers in (26, 27) if without_lora else (4, 8, 15, 16, 17, 33, 61):
        check_all_recipes(tmp_path, family, layers, experts)


@pytest.mark.parametrize("hidden", [96, 320, 40])
def test_rows_that_no_block_divides_fall_back_alike(tmp_path: Path, hidden: int) -> None:
    check_all_recipes(tmp_path, "k2", 9, 8, hidden)


def test_an_embedding_that_is_the_head_too_gets_the_heads_type(tmp_path: Path) -> None:
    check_all_recipes(tmp_path, "k2", 9, 16, tied=True)
    check_all_recipes(tmp_path, "k2", 9, 16, hidden=320, tied=True)


SLOW_TO_ENCODE = [pytest.param(name, marks=pytest.mark.slow) for name in ("IQ2_XXS", "IQ3_XXS")]


@pytest.mark.parametrize("name", ["IQ3_XS", "IQ3_M", "Q2_K_S", "Q2_K", *SLOW_TO_ENCODE])
def test_llama_cpp_refuses_exactly_the_tensors_that_lack_an_importance(tmp_path: Path, name: str) -> None:
    config = tiny_config("k2", 4, 8)
    tensors = [(tensor, shape) for tensor, shape in named_shapes(config) if tensor != "token_embd.weight"]
    source = write_sparse_model(tmp_path / "f32.gguf", config, [*tensors, ("token_embd.weight", (64, 256))])
    recipe = RECIPES[name]
    needed = missing_importance(tensors, plan_types(tensors, recipe, imatrix=True), recipe, lambda tensor: False)
    shapes = dict(tensors)
    entries = [(tensor, np.ones(columns_of(shapes[tensor]), np.float32)) for tensor in needed]
    assert (quantize(source, tmp_path / "without.gguf", recipe.file_type) == 0) == (not needed)
    assert quantize(source, tmp_path / "with.gguf", recipe.file_type, entries) == 0
    for left_out in {0, len(entries) // 2} if entries else ():
        fewer = entries[:left_out] + entries[left_out + 1 :]
        assert quantize(source, tmp_path / "fewer.gguf", recipe.file_type, fewer) != 0


def columns_of(shape: tuple[int, ...]) -> int:
    """Numbers of an importance: a row for every slab."""
    return shape[-1] * (shape[0] if len(shape) == 3 else 1)
