"""Synthetic models: GGUF files, determinism, tokenizers, and that they stay sane at any depth."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from k2lite.load import load_model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from k2lite.synth.check import check_synthetic
from k2lite.synth.families import shape_named
from k2lite.synth.shapes import Changes
from k2lite.synth.synth import SynthRequest, plan_synthetic, write_synthetic
from k2lite.tokenizer import Tokenizer
from quant.errors import RequestError, UnsupportedError
from quant.gguf.gguf_file import GgufFile
from tests.k2lite.synth_samples import CHANGES, families, tiny_plan, write_tiny
from tests.peer import llama_cpp_logits

_OTHER_RECIPES = ("F16", "IQ4_XS", "MXFP4", "LOSSLESS")
IDS = (torch.arange(24) * 53 % 300).tolist()
# llama.cpp takes 32 for every model
PEER_OPTIONS = {"k2": {"yarn_beta_fast": 1.0}, "k2-thinking": {"yarn_beta_fast": 1.0}}


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    content = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        content.update(file.name.encode() + file.read_bytes() if path.is_dir() else file.read_bytes())
    return content.hexdigest()


def our_logits(path: Path) -> torch.Tensor:
    loaded = load_model(path, threads=1)
    try:
        return loaded.model.forward(torch.tensor(IDS), loaded.model.new_cache(len(IDS)), last_only=False)
    finally:
        loaded.close()


@pytest.mark.parametrize("family", families("k2", "deepseek-v2-lite"))
def test_llama_cpp_loads_the_file_and_agrees(tmp_path: Path, family: str) -> None:
    path = write_tiny(tmp_path / "out.gguf", family, recipe="Q8_0")
    ours, theirs = our_logits(path), llama_cpp_logits(path, IDS, **PEER_OPTIONS.get(family, {}))
    assert torch.isfinite(theirs).all()
    assert float((ours - theirs).abs().max()) < 0.15 * float(theirs.abs().max())
    assert float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()) > 0.8


@pytest.mark.parametrize("recipe", ["Q4_K_M", *(pytest.param(name, marks=pytest.mark.slow) for name in _OTHER_RECIPES)])
def test_a_file_has_the_types_of_its_recipe(tmp_path: Path, recipe: str) -> None:
    path = write_tiny(tmp_path / "synthetic.gguf", recipe=recipe)
    folder = write_tiny(tmp_path / "folder", form="int4" if recipe == "LOSSLESS" else "bf16")
    quantize(folder, tmp_path / "quantized.gguf", QuantizeOptions(recipe))
    with GgufFile.open(path) as file, GgufFile.open(tmp_path / "quantized.gguf") as other:
        found = {name: (info.type.name, info.shape) for name, info in file.tensors.items()}
        assert found == {name: (info.type.name, info.shape) for name, info in other.tensors.items()}
        same = {key for key in other.metadata if not key.startswith("general.")} - set(file.metadata)
        assert not same, "keys that the quantizer writes and synth does not"
        assert file.metadata["general.name"] == "synthetic k2 4x16 6.03M"
    assert torch.isfinite(our_logits(path)).all()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["F32", "Q8_0", "Q5_1", "Q5_K_M", "Q3_K_M", "Q2_K", "IQ3_XXS", "IQ2_XXS", "K2_4"])
def test_files_of_many_recipes_pass_the_check(tmp_path: Path, recipe: str) -> None:
    check = check_synthetic(write_tiny(tmp_path / "out.gguf", recipe=recipe), threads=1)
    assert check.forward_tokens > 0


@pytest.mark.parametrize("options", [{}, {"recipe": "Q4_K_M"}], ids=["folder", "file"])
def test_equal_requests_give_equal_bytes_on_any_number_of_threads(tmp_path: Path, options: dict[str, str]) -> None:
    digests = []
    for threads, seed in ((1, 0), (3, 0), (1, 1)):
        path = tmp_path / f"{threads}-{seed}"
        write_synthetic(tiny_plan(path, seed=seed, **options), threads=threads)
        digests.append(digest(path))
    assert digests[0] == digests[1] != digests[2]


def test_a_folder_can_be_quantized(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "folder")
    quantize(folder, tmp_path / "out.gguf", QuantizeOptions("Q8_0"))
    assert torch.isfinite(our_logits(tmp_path / "out.gguf")).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["k2", "deepseek-v2-lite"])
def test_a_deep_model_stays_as_sane_as_a_shallow_one(tmp_path: Path, family: str) -> None:
    changes = replace(CHANGES, layers=61)
    path = write_tiny(tmp_path / "deep.gguf", family, changes=changes, recipe="BF16")
    logits = our_logits(path)
    assert torch.isfinite(logits).all()
    assert 2 < float(logits.std()) < 4


def test_a_real_tokenizer_is_taken_over_with_its_size(tmp_path: Path) -> None:
    real = write_tiny(tmp_path / "real", changes=replace(CHANGES, vocab=777))
    changes = replace(CHANGES, vocab=None)
    folder = write_tiny(tmp_path / "out", changes=changes, tokenizer=real)
    assert (folder / "tiktoken.model").read_bytes() == (real / "tiktoken.model").read_bytes()
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.vocab_size == 777
    assert tokenizer.bos_id == tokenizer.special["[BOS]"]
    assert check_synthetic(folder, threads=1).forward_tokens


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    kimi = write_tiny(tmp_path / "kimi", changes=replace(CHANGES, vocab=163_840, layers=1, hidden=32))
    with pytest.raises(UnsupportedError, match="163,840 tokens"):
        tiny_plan(tmp_path / "out", "deepseek-v3", changes=replace(CHANGES, vocab=None), tokenizer=kimi)


def test_two_ways_to_say_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="choose one"):
        tiny_plan(tmp_path / "out", form="fp8", recipe="Q8_0")
    with pytest.raises(RequestError, match="vocabulary"):
        tiny_plan(tmp_path / "out", tokenizer=tmp_path)


@pytest.mark.parametrize(("family", "layers", "notes"), [("k2", 27, 1), ("k2", 28, 0), ("moonlight", 27, 0)])
def test_a_file_that_llama_cpp_would_misread_is_noted(tmp_path: Path, family: str, layers: int, notes: int) -> None:
    changes = replace(CHANGES, layers=layers)
    assert len(tiny_plan(tmp_path / "out", family, changes=changes, recipe="Q8_0").notes) == notes
    assert tiny_plan(tmp_path / "out", family, changes=changes).notes == []


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="unknown recipe 'Q9'"):
        tiny_plan(tmp_path / "out", recipe="Q9")


@pytest.mark.parametrize(
    ("family", "nbytes"), [("k2", 1_029_000_000_000), ("k2-thinking", 594_200_000_000), ("moonlight", 31_900_000_000)]
)
def test_models_of_full_size_take_what_the_published_ones_take(tmp_path: Path, family: str, nbytes: int) -> None:
    # one layer of experts stands for all: a plan of a whole model takes seconds
    shape = shape_named(family)
    layers = shape.config["num_hidden_layers"]

    def planned_bytes(count: int) -> int:
        changes = Changes(layers=count)
        return plan_synthetic(SynthRequest(tmp_path / "out", shape, family, changes)).layout.total_bytes

    two, one = planned_bytes(2), planned_bytes(1)
    assert one + (layers - 1) * (two - one) == pytest.approx(nbytes, rel=0.001)
