"""Files of k2lite's own recipes are ordinary files: llama.cpp loads them and predicts what the source predicts."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite.load import load_model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from quant.gguf.gguf_file import GgufFile
from tests.peer import llama_cpp_logits, mean_kl
from tests.tiny import build

TOKENS = torch.randint(0, 640, (96,), generator=torch.Generator().manual_seed(7))


def source_logits(folder: Path) -> Tensor:
    """The checkpoint itself, exact."""
    loaded = load_model(folder, threads=1)
    try:
        return loaded.model.forward(TOKENS, loaded.model.new_cache(len(TOKENS)), last_only=False)
    finally:
        loaded.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "family", "main_types", "largest_kl"),
    [
        ("K2_4", "k2", {"Q4_K", "Q6_K", "Q8_0", "F32"}, 0.05),
        ("K2_4", "deepseek-v3", {"Q4_K", "Q6_K", "Q8_0", "F32"}, 0.05),
        ("INT4", "k2-thinking", {"Q4_0", "Q8_0", "F32"}, 0.005),
        ("LOSSLESS", "k2-thinking", {"Q4_0", "BF16", "F32"}, 0.005),
    ],
)
def test_llama_cpp_loads_the_file(
    tmp_path: Path, recipe: str, family: str, main_types: set[str], largest_kl: float
) -> None:
    folder = build(family, experts=16, update_gain=0.15).write(tmp_path / family)
    path = tmp_path / "model.gguf"
    quantize(folder, path, QuantizeOptions(recipe), threads=1)
    with GgufFile.open(path) as file:
        assert set(Counter(info.type.name for info in file.tensors.values())) == main_types
        beta_fast = file.metadata["deepseek2.rope.scaling.yarn_beta_fast"]
    # llama.cpp does not read beta_fast from the file.
    theirs = llama_cpp_logits(path, TOKENS.tolist(), yarn_beta_fast=beta_fast)
    kl = mean_kl(source_logits(folder), theirs)
    print(f"\n{family} as {recipe}, run by llama.cpp: mean KL from the source {kl:.5f}")
    assert kl < largest_kl
