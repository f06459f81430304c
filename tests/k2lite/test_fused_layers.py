"""Attention and router in one native call each, against the same layer product by product in plain torch."""

import functools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from k2lite.attention import Attention, AttentionWeights
from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.kv_cache import KvCache
from k2lite.norm import rms_norm
from k2lite.rope import Rope
from k2lite.router import Router
from quant.encode.encode import encode
from quant.kernels import Kernels, make_kernels
from quant.kernels.fused import FusedKernels
from quant.tensor import QuantizedTensor
from quant.types import block_type
from tests.quant.kernels.samples import random
from tests.tiny import build

FLOAT32_ERROR = 3e-6
EIGHT_BIT_ERROR = 3e-2  # activations in eight bits, several products in a row


@pytest.fixture(scope="module", params=[1, 3])
def native(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    made = make_kernels("native", threads=request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain() -> Kernels:
    return make_kernels("reference", threads=1)


@functools.cache
def config_of(family: str) -> ModelConfig:
    return config_from_json(build(family).config)


def attention_weights(c: ModelConfig, name: str) -> AttentionWeights:
    def weights(shape: tuple[int, ...], seed: int) -> QuantizedTensor:
        block, values = block_type(name), random(*shape, seed=seed) / shape[-1] ** 0.5
        return QuantizedTensor(block, shape, encode(values, block))

    queries, low_rank = c.n_heads * c.head_dim, c.q_lora_rank
    return AttentionWeights(
        norm=1 + 0.1 * random(c.hidden_size, seed=1),
        q=None if low_rank else weights((queries, c.hidden_size), 2),
        q_a=weights((low_rank, c.hidden_size), 3) if low_rank else None,
        q_a_norm=1 + 0.1 * random(low_rank, seed=4) if low_rank else None,
        q_b=weights((queries, low_rank), 5) if low_rank else None,
        kv_a=weights((c.latent_dim, c.hidden_size), 6),
        kv_a_norm=1 + 0.1 * random(c.kv_lora_rank, seed=7),
        k_b=weights((c.n_heads, c.kv_lora_rank, c.qk_nope_dim), 8),
        v_b=weights((c.n_heads, c.v_dim, c.kv_lora_rank), 9),
        output=weights((c.hidden_size, c.n_heads * c.v_dim), 10),
    )


def filled_cache(c: ModelConfig, length: int) -> KvCache:
    cache = KvCache(c, capacity=length + 8)
    cache.write(0, random(length, c.latent_dim, seed=11))
    cache.advance(length)
    return cache


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


@pytest.mark.parametrize(("name", "limit"), [("F32", FLOAT32_ERROR), ("Q8_0", EIGHT_BIT_ERROR)])
@pytest.mark.parametrize(
    ("tokens", "cached"), [(1, 0), (8, 0), (1, 127), (3, 126), (1, 128), (8, 300), (1, 1000), (5, 515)]
)
@pytest.mark.parametrize("family", ["k2", "moonlight", "deepseek-v3"])
def test_attention(
    native: Kernels, plain: Kernels, family: str, tokens: int, cached: int, name: str, limit: float
) -> None:
    c = config_of(family)
    weights, x = attention_weights(c, name), random(tokens, c.hidden_size, seed=12)
    rotations = Rope(c).rotations(cached, tokens)
    found, expected = filled_cache(c, cached), filled_cache(c, cached)
    update = Attention(weights, c, native)(x.clone(), 0, found, rotations) - x
    reference = Attention(weights, c, plain, absorbed_only=True)(x.clone(), 0, expected, rotations) - x
    assert relative_error(update, reference) < limit
    written = slice(cached, cached + tokens)
    assert relative_error(found.layer(0)[written], expected.layer(0)[written]) < limit
    assert torch.equal(found.layer(0)[:cached], expected.layer(0)[:cached])


def test_a_token_sees_nothing_that_comes_after_it(native: Kernels) -> None:
    c = config_of("k2")
    attention, x = Attention(attention_weights(c, "F32"), c, native), random(4, c.hidden_size)
    rotations = Rope(c).rotations(130, 4)
    before = attention(x.clone(), 0, filled_cache(c, 130), rotations)
    x[3] = 100
    after = attention(x.clone(), 0, filled_cache(c, 130), rotations)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3], after[3])


def test_threads_do_not_change_the_bits(plain: Kernels) -> None:
    c = config_of("k2")
    results = []
    for threads in (1, 2, 5):
        kernels = make_kernels("native", threads)
        attention = Attention(attention_weights(c, "Q8_0"), c, kernels)
        results.append(attention(random(2, c.hidden_size), 0, filled_cache(c, 400), Rope(c).rotations(400, 2)))
        kernels.close()
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_nan_shows(native: Kernels) -> None:
    c = config_of("k2")
    cache = filled_cache(c, 9)
    cache.layer(0)[4, 3] = float("nan")
    attention = Attention(attention_weights(c, "Q8_0"), c, native)
    assert attention(random(1, c.hidden_size), 0, cache, Rope(c).rotations(9, 1)).isnan().any()


def test_positions_beyond_the_cache_are_refused(native: Kernels) -> None:
    c = config_of("k2")
    cache = filled_cache(c, 9)
    cache.advance(8)
    with pytest.raises(ValueError, match="k2quant_attend"):
        Attention(attention_weights(c, "F32"), c, native)(random(1, c.hidden_size), 0, cache, Rope(c).rotations(17, 1))


@pytest.mark.parametrize("tokens", range(1, 9))
@pytest.mark.parametrize(
    ("family", "groups", "used"), [("k2", 1, 1), ("deepseek-v3", 4, 2), ("deepseek-v2-lite", 1, 1), ("k2", 16, 5)]
)
def test_router(native: Kernels, plain: Kernels, family: str, groups: int, used: int, tokens: int) -> None:
    c = replace(config_of(family), n_groups=groups, n_groups_used=used)
    norm = 1 + 0.1 * random(c.hidden_size, seed=1)
    weight = random(c.n_experts, c.hidden_size, seed=2) / 16
    bias = random(c.n_experts, seed=3) / 8 if c.scoring == "sigmoid" else None
    x = random(tokens, c.hidden_size, seed=4)
    normed, routing = Router(norm, weight, bias, c, native)(x)
    expected_normed, expected = Router(norm, weight, bias, c, plain)(x)
    torch.testing.assert_close(normed, expected_normed)
    assert torch.equal(routing.ids, expected.ids)
    torch.testing.assert_close(routing.weights, expected.weights)


@pytest.mark.parametrize(("tokens", "width"), [(0, 40), (1, 7168), (3, 1), (9, 33), (700, 256)])
def test_norm(native: Kernels, tokens: int, width: int) -> None:
    assert isinstance(native, FusedKernels)
    x, weight = 3 * random(tokens, width + 2)[:, 1:-1], random(width, seed=2)
    expected = rms_norm(x.double(), weight.double(), 1e-3)
    torch.testing.assert_close(native.rms_norm(x, weight, 1e-3).double(), expected, rtol=2e-6, atol=1e-6)
    with pytest.raises(ValueError, match="do not fit"):
        native.rms_norm(x, weight[1:], 1e-3)
