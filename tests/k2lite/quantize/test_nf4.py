"""From checkpoints to NF4 folders: what other programs find there."""

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from k2lite.config_json import config_from_json
from k2lite.quantize.nf4 import is_quantized, nf4_job
from k2lite.quantize.nf4_config import quantization_config
from quant.checkpoint.checkpoint import Checkpoint
from quant.checkpoint.safetensors_file import SafetensorsFile
from quant.convert.job import convert
from quant.convert.job_types import ConversionStopped, ConvertLimits, ConvertProgress
from quant.errors import K2Error, OutputError, UnsupportedError
from quant.nf4.nf4_file import Nf4Entry, Nf4Folder
from tests.tiny import build, write_checkpoint

# Layers and experts of the smallest models that have everything.
LEAST = {"k2": (2, 4), "k2.5": (2, 4), "moonlight": (2, 4), "deepseek-v3": (4, 8), "deepseek-v2-lite": (2, 4)}
EVERY_CHUNK = ConvertLimits(stretch_bytes=1)


def quantize(source: Path, destination: Path, **options: Any) -> Path:
    with nf4_job(source, destination, **options) as planned:
        convert(planned.job, threads=2)
    return destination


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("family", ["k2", "k2.5", "moonlight", "deepseek-v3", "deepseek-v2-lite"])
def test_bitsandbytes_reads_the_same_weights(tmp_path: Path, family: str, double_quant: bool) -> None:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    layers, experts = LEAST[family]
    source = write_checkpoint(tmp_path / "source", family, layers=layers, experts=experts)
    stored = stored_tensors(quantize(source, tmp_path / "nf4", double_quant=double_quant, shard_bytes=1_000_000))
    with Nf4Folder(tmp_path / "nf4") as folder, Checkpoint.open(source) as checkpoint:
        for name, entry in folder.entries.items():
            exact, decoded = checkpoint.read(name), entry.decode()
            assert is_quantized(name) == isinstance(entry, Nf4Entry)
            if not isinstance(entry, Nf4Entry):
                assert torch.equal(decoded, exact), name
                assert entry.storage == checkpoint.storage(name)
                continue
            parts = {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}
            state = QuantState.from_dict(parts, torch.device("cpu"))
            assert state.nested == double_quant
            assert tuple(state.shape) == exact.shape
            state.shape = torch.Size([1, exact.numel()])  # on the CPU it wants rows that end with a block
            assert torch.equal(dequantize_4bit(stored[name], state).view(exact.shape), decoded.bfloat16()), name
            assert float((decoded - exact).norm() / exact.norm()) < 0.11, name


def test_the_tensors_are_those_of_the_model_and_no_others(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "k2.5", layers=2, experts=4)
    with nf4_job(source, tmp_path / "nf4") as planned:
        names = [tensor.source.name for tensor in planned.job.tensors]
        assert any("vision" in note for note in planned.notes)
    expert = "model.layers.1.mlp.experts"
    assert f"{expert}.3.down_proj.weight" in names
    assert "model.layers.0.self_attn.kv_b_proj.weight" in names
    assert not [name for name in names if "vision" in name or "inv_freq" in name or "language_model" in name]
    kept = {name.split("layers.1.")[-1] for name in names if not is_quantized(name) and "layers.0." not in name}
    assert kept == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_a_layernorm.weight",
        "self_attn.kv_a_layernorm.weight",
        "mlp.gate.weight",
        "mlp.gate.e_score_correction_bias",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


@pytest.mark.parametrize("family", ["k2", "k2.5", "moonlight"])
def test_the_config_is_the_text_models_with_the_new_quantization(tmp_path: Path, family: str) -> None:
    source = write_checkpoint(tmp_path / "source", family, layers=2, experts=4)
    original = json.loads((source / "config.json").read_text())
    config = json.loads((quantize(source, tmp_path / "nf4") / "config.json").read_text())
    assert config["quantization_config"] == quantization_config(double_quant=False)
    assert config_from_json(config, name="m") == config_from_json(original, name="m")
    assert "text_config" not in config
    assert "vision_config" not in config
    assert config["architectures"] == ["DeepseekV3ForCausalLM"]
    assert config["eos_token_id"] == original["eos_token_id"]


def test_the_quantization_is_what_transformers_writes() -> None:
    from transformers import BitsAndBytesConfig

    for double_quant in (False, True):
        wanted = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quant,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["lm_head", "mlp.gate"],
        )
        assert quantization_config(double_quant) == wanted.to_dict()


def test_small_files_come_along_as_they_are(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "k2", layers=2, experts=4)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "modeling_deepseek.py").write_text("# code")
    (source / "empty.json").touch()
    (source / "notes.bin").write_text("not of a model")
    found = contents(quantize(source, tmp_path / "nf4"))
    for name in (
        "tiktoken.model",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "modeling_deepseek.py",
    ):
        assert found.pop(name) == (source / name).read_bytes()
    assert found.keys() == {"config.json", "model.safetensors"}


def test_a_small_file_that_is_not_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source", "k2", layers=2, experts=4)
    monkeypatch.setattr("k2lite.quantize.nf4_config._MAX_FILE_BYTES", 1000)
    with pytest.raises(K2Error, match=r"takes more than 1000 bytes"), nf4_job(source, tmp_path / "nf4"):
        pass


def test_files_keep_to_the_size_of_a_shard(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "moonlight", layers=2, experts=8)
    folder = quantize(source, tmp_path / "nf4", shard_bytes=1_000_000)
    shards = sorted(folder.glob("*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(shards) > 2
    assert shards[1].name == f"model-00002-of-{len(shards):05d}.safetensors"
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    assert index["weight_map"].keys() == stored_tensors(folder).keys()
    for path in shards:
        file = SafetensorsFile(path)
        file.close()
        assert sum(tensor.nbytes for tensor in file.tensors.values()) <= 1_000_000
        for tensor in file.tensors.values():
            assert tensor.offset % {"U8": 1, "BF16": 2, "F32": 4}[tensor.dtype] == 0


class StopAfter:
    """Progress that stops the job when a share of the weights is written."""

    def __init__(self, share: float) -> None:
        self._share = share
        self.stop = threading.Event()
        self.resumed = 0.0

    def __call__(self, state: ConvertProgress) -> None:
        self.resumed = state.resumed_weights / state.total_weights
        if state.done_weights > self._share * state.total_weights:
            self.stop.set()


@pytest.mark.parametrize("double_quant", [False, True])
def test_a_stopped_job_goes_on_to_the_same_bytes(tmp_path: Path, double_quant: bool) -> None:
    source = write_checkpoint(tmp_path / "source", "k2", layers=2, experts=8)
    options = {"double_quant": double_quant, "shard_bytes": 700_000}
    expected = contents(quantize(source, tmp_path / "whole", **options))
    resumed = []
    for share in (0.2, 0.6, 2):
        watch = StopAfter(share)
        with nf4_job(source, tmp_path / "nf4", **options) as planned:
            try:
                convert(planned.job, threads=1, progress=watch, stop=watch.stop, limits=EVERY_CHUNK)
            except ConversionStopped:
                assert not (tmp_path / "nf4").exists()
        resumed.append(watch.resumed)
    assert resumed[0] == 0
    assert resumed[1] > 0.1
    assert resumed[2] > 0.5
    assert contents(tmp_path / "nf4") == expected
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.parametrize("change", ["options", "small file", "weights"])
def test_other_work_is_not_mixed_with_what_is_there(tmp_path: Path, change: str) -> None:
    source = write_checkpoint(tmp_path / "source", "k2", layers=2, experts=8)
    stop = threading.Event()
    with nf4_job(source, tmp_path / "nf4") as planned, pytest.raises(ConversionStopped):
        convert(planned.job, threads=1, progress=lambda _: stop.set(), stop=stop, limits=EVERY_CHUNK)
    if change == "small file":
        (source / "generation_config.json").write_text("{}")
    elif change == "weights":
        write_checkpoint(source, "k2", layers=2, experts=8, seed=1)
    options = {"double_quant": change == "options"}
    message = {"options": "double quantization is yes now", "small file": "generation_config", "weights": "model-1-of"}
    with nf4_job(source, tmp_path / "nf4", **options) as planned, pytest.raises(OutputError, match=message[change]):
        convert(planned.job)


@pytest.mark.parametrize("family", ["k2", "moonlight", "deepseek-v3"])
def test_config_json_alone_gives_the_same_plan(tmp_path: Path, family: str) -> None:
    source = write_checkpoint(tmp_path / "source", family, layers=4, experts=8)
    with nf4_job(source, tmp_path / "nf4", shard_bytes=2_000_000) as planned:
        whole = planned.job
    for shard in source.glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(K2Error), nf4_job(source, tmp_path / "nf4"):
        pass
    with nf4_job(source, tmp_path / "nf4", shard_bytes=2_000_000, planning=True) as planned:
        alone = planned.job
    assert any("config.json alone" in note for note in planned.notes)
    assert not planned.complete
    sizes = [{tensor.source.name: tensor.nbytes for tensor in job.tensors} for job in (whole, alone)]
    if family == "moonlight":  # its bias is BF16
        sizes = [{name: size for name, size in each.items() if not name.endswith("_bias")} for each in sizes]
    assert sizes[0] == sizes[1]
    with pytest.raises(K2Error, match=r"planned from config\.json alone"):
        alone.tensors[0].source.read(0)


def test_a_file_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedError, match="is a file: give the folder"):
        quantize(tmp_path / "model.gguf", tmp_path / "x")
    source = write_checkpoint(tmp_path / "source", "k2", layers=2, experts=4)
    quantize(source, tmp_path / "nf4")
    with pytest.raises(UnsupportedError, match="quant_method"):
        quantize(tmp_path / "nf4", tmp_path / "x")


@pytest.mark.slow
def test_transformers_runs_a_dense_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    from k2lite.load import load_model
    from tests import tiny_families

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    dense = tiny_families.FAMILIES["moonlight"]
    # Without experts, which transformers stacks and so cannot have in NF4; and with rows in 32s, as bitsandbytes needs.
    dense = replace(dense, fields=dense.fields | {"first_k_dense_replace": 2, "qk_rope_head_dim": 32})
    monkeypatch.setitem(tiny_families.FAMILIES, "dense", dense)
    folder = quantize(build("dense", layers=2).write(tmp_path / "source"), tmp_path / "nf4")
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model.model.layers[0].self_attn.o_proj).__name__ == "Linear4bit"
    assert type(model.lm_head).__name__ == "Linear"
    ids = torch.tensor([[1, 5, 9, 100, 33, 7]])
    with torch.no_grad():
        theirs = model(ids).logits[0]
    loaded = load_model(folder, kernels="reference", threads=1)
    ours = loaded.model.forward(ids[0], loaded.model.new_cache(6), last_only=False)
    loaded.close()
    # Its products are computed in BF16.
    assert float((ours - theirs).norm() / ours.norm()) < 0.02
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
