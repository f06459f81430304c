"""The benchmark of the engine on a card, on the processor's memory and tiny: that it measures, not what."""

import json

import pytest
import torch

from benchmarks.gpu_engine import Sizes, figures
from benchmarks.gpu_slice import Bench
from quant.kernels import make_kernels
from quant.kernels.card import make_card_kernels
from tests.k2lite.simulated_cards import simulate_cards

TINY = {
    "hidden_size": 256,
    "moe_intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 256,
    "kv_lora_rank": 256,
    "vocab_size": 500,
}
SIZES = Sizes(2, 16, 4, (10,), 2, 16, (60,))


def test_every_figure_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_cards(monkeypatch, 1, 1 << 30)
    monkeypatch.setattr("offload.send_ahead._LENDING_TOKENS", 50)
    bench = Bench(torch.device("cpu"), make_card_kernels("reference"), make_kernels("reference", 1), TINY)
    found = list(figures(bench, SIZES, {"link_bytes_per_s": 1e9, "matmul_flop_per_s": 1e12}))
    json.dumps(found, allow_nan=False)
    assert [figure["part"] for figure in found] == ["decode", "decode", "half", "half", "half", "prompt", "prompt"]
    assert all(figure["milliseconds"] > 0 for figure in found)
    whole, off, on = found[2:5]
    assert whole["card_milliseconds"] > 0 and whole["processor_milliseconds"] > 0
    assert off["promotions"] == 0 and on["link_share"] > 0
    # Every expert that some token chose goes over the link, once a prompt: nearly all of a layer's sixteen.
    layer_bytes = 16 * (2 * 256 * 144 + 256 * 210)
    assert all(0.7 * layer_bytes < figure["bytes"] <= layer_bytes for figure in found[5:])
