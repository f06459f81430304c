"""Uneven routing, as it is wished and as the real routers of a real forward pass show it."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from k2lite.config_json import config_from_json
from k2lite.load import load_model
from k2lite.synth.families import shape_named
from k2lite.synth.routing import Routing, bias_std, share_of_busiest, share_reused, shared_share
from k2lite.synth.shapes import Changes
from k2lite.synth.synth import SynthRequest, plan_synthetic, write_synthetic
from k2lite.synth.topics import TOPICS_KEY, topic_tokens
from offload.trace import RoutingTrace, read_trace
from quant.errors import RequestError
from quant.gguf.gguf_file import GgufFile
from tests.k2lite.synth_samples import tiny_shape

VOCAB = 1024
CHANGES = Changes(layers=3, experts=64, experts_per_token=4, hidden=512, expert_width=64, dense_width=256, vocab=VOCAB)
TOKENS = 400


def routed(folder: Path, routing: Routing) -> RoutingTrace:
    """What a model with this routing does with tokens of one topic, then of another, and so on."""
    path = folder / "model.gguf"
    shape = tiny_shape("k2")
    write_synthetic(plan_synthetic(SynthRequest(path, shape, "k2", CHANGES, recipe="Q8_0", routing=routing)), threads=1)
    draw = torch.Generator().manual_seed(0)
    topic = torch.arange(TOKENS) // 50
    ids = topic * topic_tokens(VOCAB) + torch.randint(topic_tokens(VOCAB), (TOKENS,), generator=draw)
    loaded = load_model(path, threads=1, record_routing=folder / "routing.jsonl")
    cache = loaded.model.new_cache(TOKENS)
    for position in range(TOKENS):
        loaded.model.forward(ids[position : position + 1], cache)
    loaded.close()
    return read_trace(folder / "routing.jsonl", experts=64)


def busiest_fifth(trace: RoutingTrace, layer: int) -> float:
    uses = Counter(expert for token in trace.tokens for expert in token[layer])
    return sum(count for _, count in uses.most_common(13)) / sum(uses.values())


def reused(trace: RoutingTrace, layer: int) -> float:
    pairs = [(set(a[layer]), set(b[layer])) for a, b in zip(trace.tokens, trace.tokens[1:], strict=False)]
    return sum(len(before & after) for before, after in pairs) / (len(pairs) * trace.used_per_layer)


def test_even_is_even(tmp_path: Path) -> None:
    trace = routed(tmp_path, Routing())
    for layer in range(2):
        assert busiest_fifth(trace, layer) < 0.38
        assert reused(trace, layer) < 0.18


def test_the_busiest_fifth_gets_what_was_wished(tmp_path: Path) -> None:
    trace = routed(tmp_path, Routing(skew=0.6))
    for layer in range(2):
        assert busiest_fifth(trace, layer) == pytest.approx(0.6, abs=0.08)


def test_tokens_of_a_topic_go_where_the_one_before_went(tmp_path: Path) -> None:
    trace = routed(tmp_path, Routing(reuse=0.4))
    for layer in range(2):
        assert reused(trace, layer) == pytest.approx(0.4, abs=0.1)
        assert busiest_fifth(trace, layer) < 0.58
    with GgufFile.open(tmp_path / "model.gguf") as file:
        assert file.metadata[TOPICS_KEY] == 64


def test_both_at_once(tmp_path: Path) -> None:
    trace = routed(tmp_path, Routing(skew=0.5, reuse=0.4))
    for layer in range(2):
        assert reused(trace, layer) == pytest.approx(0.4, abs=0.1)
        assert busiest_fifth(trace, layer) > 0.45


def test_wishes_are_solved_for_the_whole_of_kimi_k2() -> None:
    config = config_from_json(shape_named("k2").config)
    std = bias_std(config, 0.53)
    assert share_of_busiest(config, std) == pytest.approx(0.53, abs=0.01)
    assert share_reused(config, std, shared_share(config, std, 0.3)) == pytest.approx(0.3, abs=0.01)


def test_what_cannot_be_is_refused() -> None:
    config = config_from_json(shape_named("k2").config)
    with pytest.raises(RequestError, match=r"choose one from 0\.2"):
        bias_std(config, 0.05)
    with pytest.raises(RequestError, match="correction bias"):
        bias_std(config_from_json(shape_named("deepseek-v2-lite").config), 0.5)
    with pytest.raises(RequestError, match="no share"):
        Routing(skew=1.5)
    with pytest.raises(RequestError, match="GGUF"):
        SynthRequest(Path("x"), shape_named("k2"), "k2", routing=Routing(reuse=0.3))
