"""Loading: what a file says must fit together, whichever program wrote it."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from k2lite.load import load_model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from quant.errors import GgufError, K2Error
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from quant.types import block_type
from tests.tiny import build


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    source = build("k2", layers=2, experts=4).write(folder / "k2")
    quantize(source, folder / "k2.gguf", QuantizeOptions("F32"), threads=1)
    return folder / "k2.gguf"


def logits(path: Path, **options: str) -> Tensor:
    loaded = load_model(path, kernels="reference", threads=1, **options)
    try:
        return loaded.model.forward(torch.arange(20), loaded.model.new_cache(20), last_only=False)
    finally:
        loaded.close()


def rewrite(source: Path, destination: Path, *, drop=(), add=(), metadata=None) -> Path:
    """Copy a file without the tensors `drop`, with (name, values) of `add` as F32, and other `metadata` values."""
    with GgufFile.open(source) as file:
        entries = [
            MetadataEntry(key, file.value_type(key), (metadata or {}).get(key, value))
            for key, value in file.metadata.items()
            if (metadata or {}).get(key, value) is not None
        ]
        kept = [info for name, info in file.tensors.items() if name not in drop]
        specs = [TensorSpec(info.name, info.type, info.shape) for info in kept]
        specs += [TensorSpec(name, block_type("F32"), tuple(values.shape)) for name, values in add]
        with GgufWriter(destination, entries, specs) as writer:
            for info in kept:
                writer.write(info.name, file.tensor(info.name).data)
            for name, values in add:
                writer.write(name, values.contiguous().numpy().view(np.uint8).reshape(-1))
            writer.finish()
    return destination


def floats(path: Path, name: str) -> Tensor:
    with GgufFile.open(path) as file:
        tensor = file.tensor(name)
        return torch.from_numpy(tensor.data.view(np.float32).copy()).view(tensor.shape)


def with_kv_b_in_one_tensor(original: Path, destination: Path) -> Path:
    """`original`, which has two layers, as older converters wrote it."""
    drop, add = [], []
    for layer in range(2):
        names = [f"blk.{layer}.attn_{part}_b.weight" for part in "kv"]
        k_b, v_b = (floats(original, name) for name in names)
        drop += names
        add.append((f"blk.{layer}.attn_kv_b.weight", torch.cat([k_b.transpose(1, 2), v_b], dim=1).flatten(0, 1)))
    old_keys = {
        "deepseek2.attention.key_length": 48,
        "deepseek2.attention.value_length": 32,
        "deepseek2.attention.head_count_kv": 8,
        "deepseek2.attention.key_length_mla": None,
        "deepseek2.attention.value_length_mla": None,
    }
    return rewrite(original, destination, drop=drop, add=add, metadata=old_keys)


def with_gate_and_up_in_one_tensor(original: Path, destination: Path) -> Path:
    """`original`, which has experts in layer 1 alone, with a joint tensor of theirs."""
    names = [f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "up")]
    both = torch.cat([floats(original, name) for name in names], dim=1)
    return rewrite(original, destination, drop=names, add=[("blk.1.ffn_gate_up_exps.weight", both)])


def test_a_file_gives_the_logits_of_its_checkpoint(original):
    torch.testing.assert_close(logits(original), logits(original.parent / "k2"), rtol=1e-5, atol=1e-5)


def test_old_files_with_attn_kv_b_give_the_same_logits(original, tmp_path):
    old = with_kv_b_in_one_tensor(original, tmp_path / "old.gguf")
    torch.testing.assert_close(logits(old), logits(original), rtol=1e-5, atol=1e-5)


def test_files_with_gate_and_up_in_one_tensor_give_the_same_logits(original, tmp_path):
    fused = with_gate_and_up_in_one_tensor(original, tmp_path / "fused.gguf")
    torch.testing.assert_close(logits(fused), logits(original), rtol=1e-6, atol=1e-6)


def test_files_without_a_head_use_the_embedding(original, tmp_path):
    tied = rewrite(original, tmp_path / "tied.gguf", drop=["output.weight"])
    both = rewrite(
        original,
        tmp_path / "both.gguf",
        drop=["output.weight"],
        add=[("output.weight", floats(original, "token_embd.weight"))],
    )
    torch.testing.assert_close(logits(tied), logits(both), rtol=0, atol=0)


def test_a_sharded_file_is_one_model(original, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "split.gguf", "deepseek2", split_max_tensors=11)
    reader = gguf.GGUFReader(original)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shards = sorted(tmp_path.glob("*.gguf"))
    assert len(shards) > 2
    torch.testing.assert_close(logits(shards[0]), logits(original), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", ["token_embd.weight", "blk.0.attn_k_b.weight", "blk.1.exp_probs_b.bias", "blk.1.ffn_gate_exps.weight"]
)
def test_a_missing_tensor_is_named(original, tmp_path, name):
    broken = rewrite(original, tmp_path / "broken.gguf", drop=[name])
    with pytest.raises(GgufError, match=name.replace("k_b", "kv_b")):
        load_model(broken)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("deepseek2.block_count", 3),
        ("deepseek2.block_count", 2**31),
        ("deepseek2.expert_count", 2**31),
        ("deepseek2.expert_count", 5),
        ("deepseek2.attention.head_count", 2**32 - 1),
        ("deepseek2.embedding_length", 512),
        ("deepseek2.vocab_size", 2**32 - 1),
        ("deepseek2.attention.kv_lora_rank", 128),
        ("deepseek2.rope.dimension_count", 32),
        ("deepseek2.expert_used_count", 0),
        ("deepseek2.expert_gating_func", 7),
        ("deepseek2.rope.scaling.type", "longrope"),
        ("deepseek2.attention.layer_norm_rms_epsilon", None),
        ("general.architecture", "llama"),
        ("tokenizer.ggml.pre", "gpt-2"),
        ("tokenizer.ggml.tokens", ["a", "b"]),
    ],
)
def test_metadata_that_does_not_fit_is_one_clear_error(original, tmp_path, key, value):
    broken = rewrite(original, tmp_path / "broken.gguf", metadata={key: value})
    with pytest.raises(K2Error) as caught:
        load_model(broken)
    assert "\n" not in str(caught.value)


def test_progress_ends_at_the_whole_size(original):
    seen: list[tuple[int, int]] = []
    load_model(original, progress=lambda done, total: seen.append((done, total))).close()
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] > 0
    assert seen == sorted(seen)
