"""The demo model's files through llama.cpp and through k2lite, on real text."""

from pathlib import Path

import pytest
import torch

from k2lite.demo.prepare import demo_eval_text, demo_source
from k2lite.load import load_model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from tests.peer import llama_cpp_logits, mean_kl

POSITIONS = 1024


@pytest.mark.parametrize("recipe", ["F16", "Q8_0", "Q4_K_M"])
def test_demo_model_agrees_with_llama_cpp_on_text(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / f"demo-{recipe}.gguf"
    quantize(demo_source(), path, QuantizeOptions(recipe), threads=2)
    loaded = load_model(path, threads=2)
    try:
        ids = loaded.tokenizer.encode(demo_eval_text().read_text())[:POSITIONS]
        ours = loaded.model.forward(torch.tensor(ids), loaded.model.new_cache(POSITIONS), last_only=False)
    finally:
        loaded.close()
    theirs = llama_cpp_logits(path, ids)
    kl, same_top = mean_kl(theirs, ours), float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    print(f"\ndemo {recipe}: mean KL {kl:.1e}, same top token {same_top:.1%} of {len(ids)}")
    assert len(ids) == POSITIONS
    assert kl < 0.01
    assert same_top >= 0.98
