"""Synthetic checkpoint folders: like the published ones, and of use."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from k2lite.load import load_model
from k2lite.quantize.source import open_source
from k2lite.synth.check import check_synthetic
from k2lite.synth.shapes import Changes
from quant.checkpoint.fp8 import scale_shape
from quant.errors import UnsupportedError
from tests.k2lite.synth_samples import CHANGES, VOCAB, families, tiny_plan, write_tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every family, made when it is first asked for."""
    place = tmp_path_factory.mktemp("synthetic")

    class Made(dict[str, Path]):
        def __missing__(self, family: str) -> Path:
            self[family] = write_tiny(place / family, family)
            return self[family]

    return Made()


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors by name, through the format's own library; also checks the index."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(set(index["weight_map"].values())):
        with safe_open(folder / shard, "pt") as file:
            assert {name for name, place in index["weight_map"].items() if place == shard} == set(file.keys())
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    return tensors


@pytest.mark.parametrize("family", families("k2", "k2.5", "deepseek-v2-lite"))
def test_every_family_is_loaded_and_computes_finite_logits(folders: dict[str, Path], family: str) -> None:
    loaded = load_model(folders[family], threads=1)
    try:
        ids = torch.arange(16) * 37 % VOCAB
        logits = loaded.model.forward(ids, loaded.model.new_cache(16), last_only=False)
    finally:
        loaded.close()
    assert logits.shape == (16, VOCAB)
    assert torch.isfinite(logits).all()
    assert 1.5 < float(logits.std()) < 6
    assert len(set(logits.argmax(-1).tolist())) > 8, "tokens are told apart"


def test_fp8_matrices_have_scales_for_whole_and_partial_blocks(folders: dict[str, Path]) -> None:
    tensors = stored(folders["k2"])
    matrices = [name for name, values in tensors.items() if values.dtype == torch.float8_e4m3fn]
    assert len(matrices) == 4 * 5 + 3 * 3 * (16 + 1) + 3
    for name in matrices:
        scales = tensors[f"{name}_scale_inv"]
        assert scales.dtype == torch.float32
        assert tuple(scales.shape) == scale_shape(*tensors[name].shape), name
    assert tuple(tensors["model.layers.1.self_attn.kv_a_proj_with_mqa.weight"].shape) == (80, 256)
    assert tensors["model.embed_tokens.weight"].dtype == tensors["model.layers.1.mlp.gate.weight"].dtype
    assert tensors["model.layers.1.mlp.gate.weight"].dtype == torch.bfloat16
    assert tensors["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32
    assert "model.layers.1.self_attn.rotary_emb.inv_freq" in tensors


def test_int4_experts_are_packed_as_published(folders: dict[str, Path]) -> None:
    tensors = stored(folders["k2-thinking"])
    expert = "model.layers.1.mlp.experts.15.down_proj."
    packed, scale = tensors[f"{expert}weight_packed"], tensors[f"{expert}weight_scale"]
    assert (packed.dtype, tuple(packed.shape)) == (torch.int32, (256, 16))
    assert (scale.dtype, tuple(scale.shape)) == (torch.bfloat16, (256, 4))
    assert tensors[f"{expert}weight_shape"].tolist() == [256, 128]
    others = [name for name in tensors if "shared_experts" in name or "self_attn" in name]
    assert all(tensors[name].dtype == torch.bfloat16 for name in others)
    config = json.loads((folders["k2-thinking"] / "config.json").read_text())
    assert config["quantization_config"]["format"] == "pack-quantized"


def test_the_decoder_of_k2_5_is_nested_and_prefixed(folders: dict[str, Path]) -> None:
    assert all(name.startswith("language_model.") for name in stored(folders["k2.5"]))
    config = json.loads((folders["k2.5"] / "config.json").read_text())
    assert config["model_type"] == "kimi_k25"
    assert config["text_config"]["quantization_config"]["quant_method"] == "compressed-tensors"


def test_a_layer_is_a_shard_and_what_is_outside_of_them_the_last(folders: dict[str, Path]) -> None:
    weight_map = json.loads((folders["k2"] / "model.safetensors.index.json").read_text())["weight_map"]
    assert {place for name, place in weight_map.items() if ".layers.2." in name} == {"model-3-of-5.safetensors"}
    assert weight_map["lm_head.weight"] == weight_map["model.norm.weight"] == "model-5-of-5.safetensors"
    thinking = json.loads((folders["k2-thinking"] / "model.safetensors.index.json").read_text())["weight_map"]
    assert thinking["model.layers.0.input_layernorm.weight"] == "model-00001-of-000005.safetensors"


def test_experts_differ(folders: dict[str, Path]) -> None:
    tensors = stored(folders["moonlight"])
    experts = [tensors[f"model.layers.{layer}.mlp.experts.{e}.up_proj.weight"] for layer in (1, 2) for e in range(16)]
    assert len({bytes(expert.view(torch.uint8).numpy()) for expert in experts}) == 32


def test_a_row_of_blocks_looks_like_an_encoders_output(folders: dict[str, Path]) -> None:
    """What a benchmark of encoders reads: codes over the whole range, scales that differ a little, Gaussian weights."""
    with open_source(folders["k2"]) as source:
        tensor = next(tensor for tensor in source.tensors if tensor.name == "blk.1.ffn_gate_exps.weight")
        values = tensor.read_rows(0)
    assert float(values.std()) == pytest.approx(256**-0.5, rel=0.1)
    assert float((values / values.std()).pow(4).mean()) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("form", ["fp8", *(pytest.param(form, marks=pytest.mark.slow) for form in ("bf16", "int4"))])
def test_any_family_may_have_any_form(tmp_path: Path, form: str) -> None:
    path = write_tiny(tmp_path / "out", "moonlight", form=form)
    assert check_synthetic(path, threads=1).forward_tokens
    dtypes = {str(values.dtype) for values in stored(path).values()}
    assert ("torch.float8_e4m3fn" in dtypes, "torch.int32" in dtypes) == (form == "fp8", form == "int4")


def test_widths_that_int4_groups_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"rows of 100 weights, which INT4 groups of 32 do not divide"):
        tiny_plan(tmp_path / "out", "k2-thinking", changes=replace(CHANGES, expert_width=100))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("deepseek-v3", Changes(experts=60), "n_groups is 8"),
        ("k2", Changes(experts=4), "experts_per_token is 8"),
        ("k2", Changes(layers=2, dense_layers=3), "n_dense_layers is 3"),
        ("k2", Changes(layers=100_000), "n_layers"),
        ("k2", Changes(vocab=300), "cannot be made up"),
    ],
)
def test_shapes_that_cannot_be_are_refused(tmp_path: Path, family: str, changes: Changes, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        tiny_plan(tmp_path / "out", family, changes=changes)
