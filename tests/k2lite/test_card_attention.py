"""Attention on a card, in float64 beside it: with a cache of float32, and with one of 16 bits."""

import math

import pytest
import torch
from torch import Tensor

from k2lite.attention import AttentionWeights
from k2lite.card_attention import CardAttention, CardAttentionWeights
from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.home import Home
from k2lite.kv_cache import KvCache
from k2lite.rope import Rope, softmax_scale
from k2lite.weights import float_tensor
from quant.encode.decode import dequantize
from quant.kernels.card import make_card_kernels
from quant.tensor import QuantizedTensor
from tests.tiny import build

CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
ERRORS = {FLOAT32: 1e-5, BFLOAT16: 8e-3}  # half a step of bfloat16 is up to 4e-3 of a number


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return config_from_json(build("k2", layers=2, experts=4).config)


@pytest.fixture(scope="module")
def weights(config: ModelConfig) -> AttentionWeights:
    generator = torch.Generator().manual_seed(3)

    def matrix(*shape: int) -> QuantizedTensor:
        return float_tensor(torch.randn(shape, generator=generator) / math.sqrt(shape[-1]))

    def norm(size: int) -> Tensor:
        return torch.rand(size, generator=generator) + 0.5

    c = config
    assert c.q_lora_rank is not None
    return AttentionWeights(
        norm=norm(c.hidden_size),
        q=None,
        q_a=matrix(c.q_lora_rank, c.hidden_size),
        q_a_norm=norm(c.q_lora_rank),
        q_b=matrix(c.n_heads * c.head_dim, c.q_lora_rank),
        kv_a=matrix(c.latent_dim, c.hidden_size),
        kv_a_norm=norm(c.kv_lora_rank),
        k_b=matrix(c.n_heads, c.kv_lora_rank, c.qk_nope_dim),
        v_b=matrix(c.n_heads, c.v_dim, c.kv_lora_rank),
        output=matrix(c.hidden_size, c.n_heads * c.v_dim),
    )


def exact(weights: AttentionWeights, c: ModelConfig, x: Tensor, past: Tensor) -> Tensor:
    """What attention adds to x [T, hidden] behind past [S, latent_dim], all in float64."""

    def w(tensor: QuantizedTensor | None) -> Tensor:
        assert tensor is not None
        return dequantize(tensor).view(tensor.shape).double()

    def norm(values: Tensor, scale: Tensor | None, eps: float) -> Tensor:
        assert scale is not None
        return values / (values.pow(2).mean(-1, keepdim=True) + eps).sqrt() * scale.double()

    tokens, start = len(x), len(past)
    cosines, sines = (table.double() for table in Rope(c).rotations(start, tokens))
    turn = torch.complex(cosines, sines)

    def rotated(values: Tensor) -> Tensor:  # [T, heads, rope]
        return torch.view_as_real(torch.view_as_complex(values.unflatten(-1, (-1, 2))) * turn[:, None]).flatten(-2)

    h = norm(x.double(), weights.norm, c.rms_eps)
    q = norm(h @ w(weights.q_a).T, weights.q_a_norm, c.lora_norm_eps) @ w(weights.q_b).T
    q_nope, q_rope = q.view(tokens, c.n_heads, c.head_dim).split([c.qk_nope_dim, c.qk_rope_dim], -1)
    latent, k_rope = (h @ w(weights.kv_a).T).split([c.kv_lora_rank, c.qk_rope_dim], -1)
    own = torch.cat([norm(latent, weights.kv_a_norm, c.lora_norm_eps), rotated(k_rope[:, None].contiguous())[:, 0]], -1)
    latents, keys_rope = torch.cat([past.double(), own]).split([c.kv_lora_rank, c.qk_rope_dim], -1)
    keys = torch.einsum("sl,hln->shn", latents, w(weights.k_b))
    values = torch.einsum("sl,hvl->shv", latents, w(weights.v_b))
    scores = torch.einsum("thn,shn->hts", q_nope, keys)
    scores = (scores + torch.einsum("thr,sr->hts", rotated(q_rope.contiguous()), keys_rope)) * softmax_scale(c)
    seen = torch.arange(start + tokens) <= start + torch.arange(tokens)[:, None]
    mixed = torch.einsum("hts,shv->thv", scores.masked_fill(~seen, -torch.inf).softmax(-1), values)
    return mixed.flatten(1) @ w(weights.output).T


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


@pytest.mark.parametrize("cache_type", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize(("tokens", "before"), [(1, 0), (1, 90), (4, 33), (60, 0), (40, 20)])
def test_attention_is_as_exact_as_its_cache(
    weights: AttentionWeights, config: ModelConfig, tokens: int, before: int, cache_type: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(before + tokens)
    x = torch.randn(tokens, config.hidden_size, generator=generator)
    past = torch.randn(before, config.latent_dim, generator=generator)
    home = Home("card", CPU, is_card=True, cache_type=cache_type)
    cache = KvCache(config, before + tokens, [home] * config.n_layers)
    cache.write(0, past)
    cache.advance(before)
    attention = CardAttention(CardAttentionWeights.on(CPU, weights), config, make_card_kernels("reference"))
    found = attention(x, 0, cache, Rope(config).rotations(before, tokens)) - x
    error = relative_error(found, exact(weights, config, x, past))
    assert error < ERRORS[cache_type]
    assert cache_type == FLOAT32 or error > ERRORS[FLOAT32]  # 16 bits are seen, so they are really used
