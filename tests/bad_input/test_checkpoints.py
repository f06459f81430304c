"""Damaged checkpoint folders: one line that says what is wrong and what to do, and no file left."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from k2lite.cli.main import main
from tests import damaged_checkpoints as damage
from tests.bad_input.command_line import Change, Refused, says

# name: what is done to the folder, and what the line must say: what failed, then what to do.
CHECKPOINTS: dict[str, tuple[Change, Sequence[str]]] = {
    "truncated data": (lambda f: damage.cut_shard(f, -100), ("1-of-3.safetensors", "truncated", "download it again")),
    "truncated header": (lambda f: damage.cut_shard(f, 200), ("header of", "but the file has 200", "damaged")),
    "truncated length": (lambda f: damage.cut_shard(f, 5), ("ends after 5 bytes", "download it again")),
    "empty shard": (lambda f: damage.cut_shard(f, 0), ("ends after 0 bytes", "download it again")),
    "pointer instead of a shard": (
        lambda f: damage.first_shard(f).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ("Git LFS pointer", "git lfs pull"),
    ),
    "index names a missing shard": (
        lambda f: damage.first_shard(f).unlink(),
        ("1-of-3.safetensors is missing", "download"),
    ),
    "index puts a tensor into another shard": (
        lambda f: damage.change_index(f, lambda names: names | {damage.NORM: max(names.values())}),
        (damage.NORM, "does not", "download both again"),
    ),
    "index is no JSON": (lambda f: (f / damage.INDEX).write_text("{"), (damage.INDEX, "not valid JSON", "download")),
    "index without table": (lambda f: (f / damage.INDEX).write_text("{}"), ("no weight_map", "download it again")),
    "index points out of the folder": (
        lambda f: damage.change_index(f, lambda names: names | {damage.NORM: "../../x.safetensors"}),
        ("../../x.safetensors", "not a file of this folder"),
    ),
    "a shard is missing and there is no index": (
        lambda f: ((f / damage.INDEX).unlink(), damage.first_shard(f).unlink()),
        ("2 numbered files", "set of 3", "download the missing ones"),
    ),
    "a tensor is missing": (
        lambda f: damage.change_tensor(f, damage.NORM, lambda values: None),
        (damage.NORM, "is missing", "download"),
    ),
    "a scale is missing": (
        lambda f: damage.change_tensor(f, f"{damage.EXPERT}_scale_inv", lambda values: None),
        (damage.EXPERT, "scale", "download"),
    ),
    "a tensor has another shape": (
        lambda f: damage.change_tensor(f, damage.NORM, lambda values: values[:-1]),
        (damage.NORM, "[255]", "[256]", "download"),
    ),
    "NaN among the weights": (
        lambda f: damage.change_tensor(f, damage.NORM, damage.with_nan),
        (damage.NORM, "1 weights that are NaN or infinite", "download the file again"),
    ),
    "NaN among the codes of an expert": (
        lambda f: damage.change_tensor(f, damage.EXPERT, damage.with_nan_code),
        (damage.EXPERT, "NaN or infinite", "download the file again"),
    ),
    "an infinite scale": (
        lambda f: damage.change_tensor(f, f"{damage.EXPERT}_scale_inv", lambda values: values * float("inf")),
        (damage.EXPERT, "NaN or infinite", "download the file again"),
    ),
    "unknown architecture": (
        lambda f: damage.change_config(f, model_type="mamba"),
        ("model_type is 'mamba'", "implemented: kimi_k2"),
    ),
    "unknown quantization": (
        lambda f: damage.change_config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        ("quant_method is 'gptq'", "k2lite reads only fp8 or compressed-tensors"),
    ),
    "other blocks": (
        lambda f: damage.change_config(f, quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]}),
        ("weight_block_size is [64, 64]", "k2lite reads only [128, 128]"),
    ),
    "unsupported activation": (lambda f: damage.change_config(f, hidden_act="gelu"), ("hidden_act", "'silu'")),
    "unsupported rope": (
        lambda f: damage.change_config(f, rope_scaling={"type": "linear", "factor": 2.0}),
        ("rope_scaling.type is 'linear'", "implemented: 'yarn'"),
    ),
    "a number that cannot be": (
        lambda f: damage.change_config(f, rms_norm_eps=float("nan")),
        ("rms_eps is nan", "must be above 0"),
    ),
    "another number of layers": (
        lambda f: damage.change_config(f, num_hidden_layers=5),
        ("model.layers.2", "is missing", "download"),
    ),
    "config without a field": (lambda f: damage.change_config(f, kv_lora_rank=None), ("kv_lora_rank", "whole number")),
    "config with text for a number": (
        lambda f: damage.change_config(f, hidden_size="256"),
        ("hidden_size is '256'", "expected a whole number"),
    ),
    "config is no JSON": (
        lambda f: (f / "config.json").write_text("{,"),
        ("config.json is not valid JSON", "download"),
    ),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ("config.json holds a list", "object")),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), ("config.json", "not valid JSON")),
    "config nests without end": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        ("config.json is not valid JSON", "download"),
    ),
    "no config": (lambda f: (f / "config.json").unlink(), ("cannot read", "config.json", "No such file")),
    "no shards": (
        lambda f: [path.unlink() for path in (*f.glob("*.safetensors"), f / damage.INDEX)],
        ("holds no .safetensors file", "is it the folder of a checkpoint?"),
    ),
    "no tokenizer": (lambda f: (f / "tiktoken.model").unlink(), ("no tokenizer in", "copy the one")),
    "damaged tokenizer": (
        lambda f: (f / "tiktoken.model").write_text("not base64 at all"),
        ("tiktoken.model line 1", "copy it again"),
    ),
    "binary tokenizer": (
        lambda f: (f / "tiktoken.model").write_bytes(b"\xff\x00\n" * 9),
        ("tiktoken.model line 1", "copy it again"),
    ),
    "damaged tokenizer settings": (
        lambda f: (f / "tokenizer_config.json").write_text("nothing"),
        ("tokenizer_config.json is not valid JSON", "download it again"),
    ),
    "tokenizer of another model": (
        lambda f: shutil.copy(f / "tokenizer_config.json", f / "tokenizer.json") and (f / "tiktoken.model").unlink(),
        ("tokenizer.json",),
    ),
}


# What only reading the weights finds, when others may be written already.
DAMAGED_VALUES = ("NaN among the weights", "NaN among the codes of an expert", "an infinite scale")


@pytest.mark.parametrize("name", DAMAGED_VALUES)
def test_damaged_weights_end_a_conversion_that_can_go_on(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, parts = CHECKPOINTS[name]
    change(folder)
    assert main(["quantize", str(folder), str(tmp_path / "out.gguf")]) == 1
    says(capsys.readouterr().err.splitlines()[-1], *parts, "run the same command again to go on")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out.gguf.part", "out.gguf.journal"}


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if name not in DAMAGED_VALUES])
def test_a_damaged_checkpoint_is_not_quantized(name: str, folder: Path, tmp_path: Path, refused: Refused) -> None:
    change, parts = CHECKPOINTS[name]
    change(folder)
    says(refused("quantize", folder, tmp_path / "out.gguf"), *parts)


@pytest.mark.parametrize("name", ["truncated data", "a tensor is missing", "no config", "no tokenizer"])
def test_a_damaged_checkpoint_is_not_run_either(name: str, folder: Path, refused: Refused) -> None:
    change, parts = CHECKPOINTS[name]
    change(folder)
    says(refused("run", folder, "-p", "x"), *parts)
