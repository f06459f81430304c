"""What is counted for every weight, against transformers in float64 and against llama.cpp on the same file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from k2lite.imatrix import ImatrixJob, collect_imatrix
from k2lite.load import LoadedModel, load_model
from quant.imatrix.imatrix import Imatrix
from quant.imatrix.imatrix_file import Statistics, open_statistics
from tests.k2lite.imatrix_reference import llama_cpp_statistics, reference_statistics
from tests.tiny import build
from tests.tiny_families import FAMILIES

TOKENS = 48
TEXT = "The quick brown fox jumps over 12 lazy dogs; they are not amused, and say so: woof! " * 6


def chunks_of(loaded: LoadedModel) -> Tensor:
    """The chunks that a run reads."""
    bos = [loaded.tokenizer.bos_id] if loaded.tokenizer.adds_bos else []
    ids = [*bos, *loaded.tokenizer.encode(TEXT)]
    chunks = torch.tensor(ids[: 2 * TOKENS]).view(2, TOKENS)
    if bos:
        chunks[:, 0] = bos[0]
    return chunks


def collected(model: Path, path: Path, kernels: str) -> dict[str, Statistics]:
    job = ImatrixJob(model, TEXT, "text", path, TOKENS, max_chunks=2, kernels=kernels, threads=1)
    collect_imatrix(job)
    file = open_statistics(path)
    return {name: file.read(name) for name in file.names}


def largest_difference(ours: dict[str, Statistics], theirs: dict[str, Statistics]) -> float:
    """Over all weights, relative to the largest sum of each; the counts are equal."""
    for name, entry in ours.items():
        assert entry.sums.shape == theirs[name].sums.shape, name
        assert np.array_equal(entry.counts, theirs[name].counts), name
    return max(np.abs(entry.sums - theirs[name].sums).max() / theirs[name].sums.max() for name, entry in ours.items())


QUICK = ("k2", "moonlight")


@pytest.mark.parametrize(
    "family", [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
@pytest.mark.parametrize("kernels", ["reference", pytest.param("ggml", marks=pytest.mark.slow)])
def test_every_weight_counts_what_transformers_computes(family: str, kernels: str, tmp_path: Path) -> None:
    tiny = build(family)
    folder = tiny.write(tmp_path / family)
    ours = collected(folder, tmp_path / "a.gguf", kernels)
    loaded = load_model(folder, threads=1)
    theirs = reference_statistics(tiny, chunks_of(loaded))
    loaded.close()
    for name in [name for name in ours if "ffn_gate_inp" in name]:  # transformers' router is no Linear
        assert np.array_equal(ours.pop(name).sums, ours[name.replace("gate_inp", "gate_shexp")].sums)
    assert set(ours) == set(theirs)
    assert largest_difference(ours, theirs) < 1e-5


@pytest.fixture(scope="module")
def k2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is not chaotic, as F32: llama.cpp and k2lite choose the same experts."""
    from k2lite.cli.main import main

    folder = build("k2", layers=4, update_gain=0.15).write(tmp_path_factory.mktemp("k2"))
    assert main(["quantize", str(folder), str(folder / "k2.gguf"), "--type", "F32"]) == 0
    return folder / "k2.gguf"


def test_llama_cpp_counts_the_same_for_the_same_weights(k2_file: Path, tmp_path: Path) -> None:
    ours = collected(k2_file, tmp_path / "a.gguf", "ggml")
    loaded = load_model(k2_file, threads=1)
    # llama.cpp does not read beta_fast from the file and takes 32: K2's 1 has to be given to it.
    theirs = llama_cpp_statistics(k2_file, chunks_of(loaded), yarn_beta_fast=1.0)
    loaded.close()
    assert set(ours) == set(theirs)
    assert largest_difference(ours, theirs) < 1e-5


def test_a_file_and_its_checkpoint_give_the_same_names_and_nearly_the_same_numbers(
    k2_file: Path, tmp_path: Path
) -> None:
    ours = collected(k2_file, tmp_path / "file.gguf", "reference")
    folders = collected(k2_file.parent, tmp_path / "folder.gguf", "reference")
    assert set(ours) == set(folders)
    assert largest_difference(ours, folders) < 1e-5
    with Imatrix.open(tmp_path / "file.gguf") as imatrix:
        assert imatrix.importance("blk.1.ffn_down_exps.weight", (16, 256, 256)).shape == (16, 256)
        assert imatrix.importance("blk.1.attn_k_b.weight", (8, 256, 32)).shape == (8, 32)


def test_an_nf4_folder_gives_the_names_and_nearly_the_numbers_of_its_source(k2_file: Path, tmp_path: Path) -> None:
    from k2lite.cli.main import main

    assert main(["quantize", str(k2_file.parent), str(tmp_path / "nf4"), "--type", "NF4", "--no-verify"]) == 0
    ours = collected(tmp_path / "nf4", tmp_path / "nf4.gguf", "reference")
    sources = collected(k2_file.parent, tmp_path / "source.gguf", "reference")
    assert {name: entry.sums.shape for name, entry in ours.items()} == {
        name: entry.sums.shape for name, entry in sources.items()
    }
    for name, entry in ours.items():
        # Rounded weights may send a token to another expert, so those are compared all together.
        difference = entry.sums.sum(0) - sources[name].sums.sum(0)
        assert np.abs(difference).sum() < 0.2 * sources[name].sums.sum(), name
