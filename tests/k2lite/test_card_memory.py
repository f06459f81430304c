"""What a chunk takes on a card is what was planned for it, part by part, at the width of K2."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from k2lite import card_memory
from k2lite.card_layer import CardHead
from k2lite.card_memory import card_buffers
from k2lite.config_json import config_from_json
from k2lite.home import Home
from k2lite.kv_cache import KvCache
from k2lite.synth.families import shape_named
from offload.cards import unnamed_card
from quant.kernels.card import SlotTable
from tests.k2lite.card_peak import CARD, CountedBytes, counted
from tests.k2lite.wide_layers import Nothing, layer_on, planned_layer, weights

__all__ = ["counted"]
K2 = replace(config_from_json(shape_named("k2").config), n_layers=2)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: object, scale: float) -> Tensor:
    """Stands for scaled_dot_product_attention as cards have it, which keeps no scores."""
    return torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)


@pytest.fixture
def most_of_layer(monkeypatch: pytest.MonkeyPatch, counted: CountedBytes) -> Callable[[bool, int, int], int]:
    """Bytes on the card while a chunk of so many tokens goes through a dense or another layer, behind so many."""
    monkeypatch.setattr("k2lite.card_attention.scaled_dot_product_attention", attended)
    monkeypatch.setattr("k2lite.card_attention.causal_lower_right", lambda *lengths: None)

    def most(dense: bool, tokens: int, before: int) -> int:
        with torch.no_grad():
            made = layer_on(CARD, K2, dense)
            cache = KvCache(K2, before + tokens, [made.home] * 2)
            cache.advance(before)
            angles = torch.empty(tokens, K2.qk_rope_dim // 2, device=CARD)
            counted.most = 0
            with counted:
                x = torch.empty(tokens, K2.hidden_size, device=CARD)
                made.forward(0, x, cache, (angles, angles), Nothing(counted.on_host))  # type: ignore[arg-type]
            assert counted.now == x.nbytes
        return counted.most

    return most


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("tokens", "before"), [(512, 0), (4096, 0), (16384, 0), (8192, 24576), (100, 32668), (170, 130902), (512, 130560)]
)
def test_a_layer_takes_what_is_planned(
    dense: bool, tokens: int, before: int, most_of_layer: Callable[[bool, int, int], int]
) -> None:
    most, planned = most_of_layer(dense, tokens, before), planned_layer(K2, tokens, before + tokens)
    assert 0.45 * planned < most <= planned, f"{most / 1e6:.0f} MB of {planned / 1e6:.0f}"


@pytest.mark.parametrize("dense", [False, True])
def test_of_a_longer_chunk_a_layer_keeps_the_stream_and_no_more(
    dense: bool, most_of_layer: Callable[[bool, int, int], int]
) -> None:
    longer, shorter = (most_of_layer(dense, tokens, 32768 - tokens) for tokens in (16384, 8192))
    assert longer - shorter == pytest.approx(8192 * 4 * K2.hidden_size, rel=0.02)


def test_logits_take_what_is_planned(counted: CountedBytes) -> None:
    from quant.kernels.triton.kernels import TritonKernels

    home = Home("cuda:0", CARD, is_card=True)
    head = CardHead(
        home, weights(CARD, K2.vocab_size, K2.hidden_size), torch.ones(K2.hidden_size), 1e-6, TritonKernels()
    )
    normed = torch.empty(4096, K2.hidden_size, device=CARD)
    with counted, pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        head.logits(normed)
    planned = card_memory.logit_bytes(K2)
    assert 0.5 * planned < counted.most <= planned


@pytest.mark.parametrize("kept", [1.0, 0.02], ids=["even", "to a few experts"])
@pytest.mark.parametrize("tokens", [600, 4096])
def test_experts_take_what_is_planned(tokens: int, kept: float, counted: CountedBytes) -> None:
    from quant.kernels.triton.grouped import many_experts
    from quant.types import block_type

    block, used, narrow = block_type("Q8_0"), K2.experts_per_token, 1024
    c = replace(K2, hidden_size=narrow, expert_width=2048)
    generator = torch.Generator().manual_seed(3)
    chosen = max(used, int(c.n_experts * kept))
    slots = torch.stack([torch.randperm(chosen, generator=generator)[:used] for _ in range(tokens)]).int()
    table = torch.zeros(c.n_experts, 3, dtype=torch.int64)
    experts = SlotTable(torch.empty(64, dtype=torch.uint8)[:0], table, block, block, c.expert_width, narrow)
    x, scales = torch.zeros(tokens, narrow, dtype=torch.bfloat16), torch.ones(tokens, used)
    with counted:
        many_experts(x, experts, slots, scales)
    planned = card_memory.expert_scratch_bytes(c, c.n_experts) + tokens * card_memory.expert_token_bytes(c)
    planned -= x.nbytes + slots.nbytes + scales.nbytes  # given to it
    assert counted.most <= planned
    if kept == 1.0:  # of a few experts less is decoded
        assert 0.6 * planned < counted.most, f"{counted.most / 1e6:.0f} MB of {planned / 1e6:.0f}"


@pytest.mark.parametrize("family", ["k2", "deepseek-v3", "moonlight", "deepseek-v2-lite"])
def test_a_chunk_leaves_most_of_a_card_to_experts(family: str) -> None:
    c = config_from_json(shape_named(family).config)
    expert_bytes = 3 * c.hidden_size * c.expert_width * 5 // 8
    buffers, context = card_buffers(c, expert_bytes), 32768
    chunks = []
    for gib in (4, 8, 16, 24, 80):
        usable = unnamed_card(gib << 30).usable_bytes
        chunks.append(buffers.longest_chunk(usable, context))
        grown = buffers.bytes_of(chunks[-1], context) - buffers.bytes_of(0, context)
        left = usable - buffers.bytes_of(0, context)
        assert grown <= left / 8 or chunks[-1] == 512
        if chunks[-1] < 16384:
            assert 2 * grown > left / 8
        if gib >= 24:
            assert buffers.bytes_of(chunks[-1], context) < usable / 4
    assert chunks == sorted(chunks) and all(chunk.bit_count() == 1 for chunk in chunks)
    assert chunks[-1] == 16384
    if family == "k2":
        assert chunks == [512, 4096, 8192, 16384, 16384]


def test_no_chunk_is_longer_than_the_context_needs() -> None:
    buffers, usable = card_buffers(K2, 27_000_000), unnamed_card(80 << 30).usable_bytes
    for context, chunk in ((100, 512), (4096, 4096), (4097, 8192), (8192, 8192), (20_000, 16384)):
        assert buffers.longest_chunk(usable, context) == chunk
    assert buffers.bytes_of(512, 100) < buffers.bytes_of(512, 512)


def test_without_experts_nothing_is_kept_for_them() -> None:
    plain = card_buffers(replace(K2, n_dense_layers=1, n_layers=1), 0)
    assert plain.fixed == card_memory.CONTEXT_BYTES
    assert plain.token == card_memory.stream_bytes(K2)
