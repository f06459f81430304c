"""NF4 folders run as any model does, whoever wrote them."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from k2lite.card_layer import CardLayer
from k2lite.config_json import config_from_json
from k2lite.evaluate import evaluate
from k2lite.inspection.inspection import inspect_model
from k2lite.load import FloatTensors, load_model
from k2lite.load_nf4 import read_nf4_tensors
from k2lite.nf4_experts import nf4_tensors
from k2lite.quantize.nf4 import nf4_job
from k2lite.tensor_layout import tensor_layouts
from k2lite.weights import build_model, float_tensor
from offload.memory_options import CardSpec, MemoryOptions
from quant.convert.job import convert
from quant.errors import CheckpointError, K2Error, RequestError
from quant.kernels import make_kernels
from quant.nf4.nf4_file import Nf4Folder
from tests.k2lite.simulated_cards import simulate_cards
from tests.tiny import write_checkpoint

IDS = torch.arange(20)
FAMILIES = ["k2", "k2.5", "moonlight", "deepseek-v2-lite"]


def quantize(source: Path, destination: Path, *, double_quant: bool = False) -> Path:
    with nf4_job(source, destination, double_quant=double_quant) as planned:
        convert(planned.job, threads=1, verify=False)
    return destination


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny NF4 folder of each family; every second one is doubly quantized."""
    base = tmp_path_factory.mktemp("nf4")
    return {
        family: quantize(
            write_checkpoint(base / f"{family}-source", family, layers=2, experts=4),
            base / family,
            double_quant=index % 2 == 1,
        )
        for index, family in enumerate(FAMILIES)
    }


def logits(path: Path, kernels: str) -> Tensor:
    loaded = load_model(path, kernels=kernels, threads=1)
    try:
        return loaded.model.forward(IDS, loaded.model.new_cache(20), last_only=False)
    finally:
        loaded.close()


def decoded_logits(path: Path) -> Tensor:
    """Of the same weights decoded to F32 beforehand, through the path of every checkpoint."""
    with Nf4Folder(path) as folder:
        config = config_from_json(folder.config, name="m")
        tensors = {}
        for layout in tensor_layouts(config):
            parts = [folder.entries[layout.source_name(part)].decode() for part in range(layout.parts)]
            values = torch.stack(parts) if layout.parts > 1 else parts[0]
            values = values if layout.transform is None else layout.transform(values, config)
            tensors[layout.name] = float_tensor(values)
    model = build_model(config, FloatTensors(tensors), make_kernels("reference", 1))
    return model.forward(IDS, model.new_cache(20), last_only=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_computes_with_the_decoded_weights(folders: dict[str, Path], family: str) -> None:
    expected = decoded_logits(folders[family])
    assert torch.allclose(logits(folders[family], "reference"), expected, atol=1e-4)
    # ggml multiplies the head and the embedding, which are BF16, with rounded activations.
    found = logits(folders[family], "ggml")
    assert float((found - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize(("family", "dense_type"), [("k2", "NF4"), ("deepseek-v2-lite", "F32")])
def test_matrices_stay_in_four_bits_where_their_rows_end_with_blocks(
    folders: dict[str, Path], family: str, dense_type: str
) -> None:
    seen: list[tuple[int, int]] = []
    with Nf4Folder(folders[family]) as folder:
        config = config_from_json(folder.config, name="m")
        wanted = nf4_tensors(folder, config)
        tensors = read_nf4_tensors(folder, config, wanted, lambda done, total: seen.append((done, total)))
    assert {name: tensor.nbytes for name, tensor in tensors.items()} == {n: t.nbytes for n, t in wanted.items()}
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    types = {name: tensor.type.name for name, tensor in tensors.items()}
    assert types["blk.1.ffn_gate_exps.weight"] == "NF4"
    assert tensors["blk.1.ffn_gate_exps.weight"].nbytes == 4 * config.expert_width * config.hidden_size // 64 * 36
    assert types["blk.0.ffn_down.weight"] == dense_type  # v2-lite's dense layer is 544 wide
    assert types["blk.0.attn_output.weight"] == "NF4"
    assert types["blk.0.attn_k_b.weight"] == types["blk.0.attn_v_b.weight"] == "F32"
    assert types["token_embd.weight"] == types["output.weight"] == types["blk.1.ffn_gate_inp.weight"] == "BF16"


def test_a_model_that_memory_cannot_hold_is_refused_with_the_numbers(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    with pytest.raises(RequestError, match=r"budget of 0 B is too small: weights that every token needs take .* MiB"):
        load_model(folders["k2"])


def damaged(folder: Path, target: Path, name: str, tensor: Tensor | None) -> Path:
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, target / "model.safetensors")
    return target


def test_folders_that_are_not_complete_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    expert = "model.layers.1.mlp.experts.2.up_proj.weight"
    missing = damaged(folders["k2"], tmp_path / "missing", expert, None)
    with pytest.raises(CheckpointError, match=r"experts\.2\.up_proj\.weight is missing"):
        load_model(missing)
    other = damaged(folders["k2"], tmp_path / "other", "model.norm.weight", torch.ones(8))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \[8\]"):
        load_model(other)
    factors = damaged(folders["k2"], tmp_path / "factors", f"{expert}.absmax", torch.full((1024,), float("nan")))
    with pytest.raises(CheckpointError, match="factors that are NaN"):
        load_model(factors)
    config = json.loads((folders["k2"] / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"moe_intermediate_size": 128}))
    with pytest.raises(K2Error, match="config"):
        load_model(other)


def test_experts_that_stayed_bf16_are_read_as_they_are(folders: dict[str, Path], tmp_path: Path) -> None:
    """As transformers leaves them: it stacks the experts, and bitsandbytes does not see them."""
    tensors = load_file(folders["k2"] / "model.safetensors")
    with Nf4Folder(folders["k2"]) as folder:
        names = [name for name in folder.entries if ".mlp.experts." in name]
        plain = {name: folder.entries[name].decode().bfloat16() for name in names}
    kept = {name: tensor for name, tensor in tensors.items() if ".mlp.experts." not in name}
    shutil.copytree(folders["k2"], tmp_path / "m")
    save_file(kept | plain, tmp_path / "m" / "model.safetensors")
    assert torch.allclose(logits(tmp_path / "m", "reference"), logits(folders["k2"], "reference"), atol=0.2)
    types = Counter(tensor.type for tensor in inspect_model(tmp_path / "m").tensors if ".mlp.experts." in tensor.name)
    assert types == {"BF16": 12}


def test_inspect_shows_the_matrices_and_not_their_parts(folders: dict[str, Path]) -> None:
    inspection = inspect_model(folders["moonlight"])
    names = {tensor.name for tensor in inspection.tensors}
    assert not [name for name in names if "absmax" in name or "quant" in name]
    totals = inspection.totals()
    assert next(iter(totals)) == "NF4"
    assert 4.1 < 8 * totals["NF4"].nbytes / totals["NF4"].weights < 4.6
    assert inspection.metadata["quantization_config.quant_method"] == "bitsandbytes"


@pytest.mark.slow
@pytest.mark.parametrize("double_quant", [False, True])
def test_a_folder_that_transformers_wrote_runs(tmp_path: Path, double_quant: bool) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    source = write_checkpoint(tmp_path / "source", "moonlight", layers=2, experts=4)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=settings, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs")
    for name in ("tiktoken.model", "tokenizer_config.json"):
        shutil.copy(source / name, tmp_path / "theirs")
    ours = quantize(source, tmp_path / "ours", double_quant=double_quant)
    with Nf4Folder(tmp_path / "theirs") as theirs, Nf4Folder(ours) as mine:
        for name, entry in theirs.entries.items():
            if entry.storage == "NF4":
                # A few doubly quantized factors are the table's second nearest there.
                difference = (entry.decode() - mine.entries[name].decode()).abs()
                assert float(difference.max()) <= (0.01 if double_quant else 0), name
                assert float(difference.mean()) < 1e-4, name
        assert theirs.entries["model.layers.1.self_attn.o_proj.weight"].storage == "NF4"
    assert logits(tmp_path / "theirs", "ggml").isfinite().all()


@pytest.mark.slow
def test_the_demo_model_in_nf4_keeps_its_answers(tmp_path: Path) -> None:
    demo = Path(__file__).resolve().parents[2] / "k2lite" / "demo"
    folder = quantize(demo / "model", tmp_path / "nf4")
    text = (demo / "eval_text.txt").read_text(encoding="utf-8")
    model, reference = load_model(folder, threads=1), load_model(demo / "model", threads=1)
    try:
        result = evaluate(model, text, window_tokens=256, max_tokens=1024, reference=reference)
    finally:
        model.close()
        reference.close()
    assert result.reference_perplexity is not None
    assert result.mean_kl is not None
    assert result.perplexity < 1.05 * result.reference_perplexity
    assert 0.001 < result.mean_kl < 0.06


def test_every_family_runs_on_cards(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    simulate_cards(monkeypatch, 2, 1 << 30)
    for family, path in folders.items():
        expected = logits(path, "reference")
        memory = MemoryOptions(None, (CardSpec("cuda", None, None),))
        loaded = load_model(path, kernels="reference", threads=1, memory=memory)
        try:
            kinds = {type(layer) for layer in loaded.model._layers}
            cache = loaded.model.new_cache(20)
            parts = [loaded.model.forward(part, cache, last_only=False) for part in IDS.split([15, 1, 1, 3])]
            tiers = [tier.name for tier in loaded.model.experts_state().tiers]
        finally:
            loaded.close()
        assert kinds == {CardLayer} and {"card 0", "card 1"} <= set(tiers), family
        assert (torch.cat(parts) - expected).abs().max() < 2e-2 * expected.abs().max(), family  # a cache of 16 bits
