"""The way from a checkpoint folder to a GGUF file, and every way in which it can be refused."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from quant.errors import CheckpointError, K2Error, UnsupportedError
from quant.gguf.gguf_file import GgufFile
from tests.tiny import build, write_checkpoint
from tests.tiny_families import FAMILIES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "k2", "k2", layers=2, experts=4)


def refused(folder: Path, kind: type[K2Error] = CheckpointError, *, kept: tuple[str, ...] = ()) -> str:
    """Convert, expect `kind`, and return its message; nothing but `kept` may be left beside the folder."""
    with pytest.raises(kind) as caught:
        quantize(folder, folder.parent / "out.gguf", QuantizeOptions("Q8_0"), threads=1)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, *kept}
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensor(folder: Path, name: str, change) -> None:
    """Replace a tensor by change(tensor), or remove it when that is None."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            changed = change(tensors.pop(name))
            save_file(tensors if changed is None else tensors | {name: changed}, path)
            return
    raise AssertionError(f"{name} is in no shard")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gguf_package_reads_what_was_written(family, tmp_path):
    tiny = build(family, experts=8)
    quantize(tiny.write(tmp_path / family), tmp_path / "out.gguf", QuantizeOptions("F32"), threads=1)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    expert = torch.tensor(
        tensors["blk.3.ffn_down_exps.weight" if family == "deepseek-v3" else "blk.1.ffn_down_exps.weight"].data[5]
    )
    layer = 3 if family == "deepseek-v3" else 1
    assert torch.equal(expert, tiny.state[f"model.layers.{layer}.mlp.experts.5.down_proj.weight"])
    heads, nope = tiny.text_config["num_attention_heads"], tiny.text_config["qk_nope_head_dim"]
    kv_b = tiny.state["model.layers.0.self_attn.kv_b_proj.weight"].view(heads, -1, tiny.text_config["kv_lora_rank"])
    assert torch.equal(torch.from_numpy(tensors["blk.0.attn_k_b.weight"].data.copy()), kv_b[:, :nope].transpose(1, 2))
    assert torch.equal(torch.from_numpy(tensors["blk.0.attn_v_b.weight"].data.copy()), kv_b[:, nope:])


def test_metadata_has_the_keys_that_loaders_need(folder, tmp_path):
    quantize(folder, tmp_path / "out.gguf", QuantizeOptions("Q4_K_M"), threads=1)
    with GgufFile.open(tmp_path / "out.gguf") as file:
        values = file.metadata
        assert values["general.architecture"] == "deepseek2" and values["general.file_type"] == 15
        assert values["deepseek2.attention.head_count_kv"] == 1
        assert (
            values["deepseek2.attention.key_length"] == 256 + 16 and values["deepseek2.attention.key_length_mla"] == 48
        )
        assert values["deepseek2.rope.scaling.yarn_beta_fast"] == 1.0
        assert values["deepseek2.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.1)
        assert values["deepseek2.expert_gating_func"] == 2 and values["deepseek2.expert_weights_norm"] is True
        assert values["tokenizer.ggml.pre"] == "kimi-k2" and len(values["tokenizer.ggml.tokens"]) == 640
        assert file.value_type("deepseek2.block_count") == "uint32"
        assert file.value_type("tokenizer.ggml.token_type") == "array[int32]"


def test_left_out_parts_are_noted(tmp_path):
    notes: list[str] = []
    for family in ("k2.5", "deepseek-v3"):
        folder = write_checkpoint(tmp_path / family, family, experts=8)
        options = QuantizeOptions("Q8_0")
        quantize(folder, tmp_path / f"{family}.gguf", options, started=lambda job: notes.extend(job.notes))
    assert ["vision" in note for note in notes] == [True, False] and "multi-token prediction" in notes[1]


def test_a_missing_expert_is_named(folder):
    edit_tensor(folder, "model.layers.1.mlp.experts.2.up_proj.weight", lambda tensor: None)
    edit_tensor(folder, "model.layers.1.mlp.experts.2.up_proj.weight_scale_inv", lambda tensor: None)
    (folder / "model.safetensors.index.json").unlink()
    assert "model.layers.1.mlp.experts.2.up_proj.weight" in refused(folder)


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    edit_tensor(folder, "model.layers.1.input_layernorm.weight", lambda tensor: tensor[:100].clone())
    message = refused(folder)
    assert "model.layers.1.input_layernorm.weight" in message and "[100]" in message and "[256]" in message


def test_nan_in_weights_is_named(folder):
    edit_tensor(folder, "model.norm.weight", lambda tensor: tensor.fill_(float("nan")))
    assert "model.norm.weight" in refused(folder, kept=("out.gguf.part", "out.gguf.journal"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "mixtral"),
        ("quantization_config", {"quant_method": "gptq"}),
        ("topk_method", "group_limited_greedy"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(folder, field, value):
    edit_config(folder, **{field: value})
    assert (
        "gptq" in refused(folder, UnsupportedError)
        if field == "quantization_config"
        else field in refused(folder, UnsupportedError)
    )


def test_a_truncated_shard_is_refused(folder):
    shard = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert shard.name in refused(folder)


def test_an_index_naming_a_missing_shard_is_refused(folder):
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.unlink()
    assert shard.name in refused(folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    (folder / "tiktoken.model").unlink()
    assert "tiktoken.model" in refused(folder)


def test_an_unknown_type_lists_the_known_ones(folder, tmp_path):
    with pytest.raises(UnsupportedError, match="Q4_K_M"):
        quantize(folder, tmp_path / "out.gguf", QuantizeOptions("Q4_Z"), threads=1)
