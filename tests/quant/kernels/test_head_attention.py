"""Attention of many tokens in one native call, against float64, with every instruction set."""

import math

import pytest
import torch
from torch import Tensor

from quant.kernels import make_kernels
from quant.kernels.fused import FusedKernels, LatentAttention
from quant.nf4.values import NF4
from quant.types import block_type
from tests.quant.kernels.samples import random
from tests.quant.random_weights import exact_values, random_weights

FLOAT32_ERROR = 2e-6
SCALE = 0.2


def attention(
    heads: int = 3, nope: int = 32, rope: int = 16, latent: int = 64, value: int = 32, name: str = "F32"
) -> LatentAttention:
    """Only the matrices of heads matter here; all others are as small as their shapes allow."""
    block, floats = NF4 if name == "NF4" else block_type(name), block_type("F32")
    return LatentAttention(
        norm=torch.ones(8),
        q_a=None,
        q_a_norm=None,
        q_b=random_weights(floats, (heads * (nope + rope), 8)),
        kv_a=random_weights(floats, (latent + rope, 8)),
        kv_a_norm=torch.ones(latent),
        k_b=random_weights(block, (heads, latent, nope), seed=1),
        v_b=random_weights(block, (heads, value, latent), seed=2),
        output=random_weights(floats, (8, heads * value)),
        rope_dim=rope,
        eps=1e-6,
        lora_eps=1e-6,
        scale=SCALE / math.sqrt(latent),
    )


def rotations(a: LatentAttention, position: int, tokens: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(position, position + tokens)[:, None] * 0.37 ** torch.arange(a.rope_dim // 2)
    return angles.cos().float(), angles.sin().float()


def exact(a: LatentAttention, queries: Tensor, cache: Tensor, position: int) -> Tensor:
    """In float64, [T, heads * value]."""
    heads, latent, nope = a.k_b.shape
    tokens, positions = len(queries), position + len(queries)
    q = queries.double().view(tokens, heads, -1)
    cosines, sines = (table.double()[:, None] for table in rotations(a, position, tokens))
    even, odd = q[..., nope::2], q[..., nope + 1 :: 2]
    rotated = torch.stack((even * cosines - odd * sines, odd * cosines + even * sines), dim=-1).flatten(-2)
    cached = cache[:positions].double()
    latents, rotary_keys = cached[:, :latent], cached[:, latent:]
    keys, values = latents @ exact_values(a.k_b), latents @ exact_values(a.v_b).transpose(1, 2)
    scores = torch.einsum("thd,hsd->hts", q[..., :nope], keys) + torch.einsum("thd,sd->hts", rotated, rotary_keys)
    future = torch.ones(tokens, positions, dtype=torch.bool).triu_(position + 1)
    weights = (scores * a.scale).masked_fill(future, -math.inf).softmax(-1)
    return torch.einsum("hts,hsv->thv", weights, values).flatten(1)


def found(a: LatentAttention, queries: Tensor, cache: Tensor, position: int, threads: int = 2) -> Tensor:
    kernels = make_kernels("native", threads)
    assert isinstance(kernels, FusedKernels)
    attend = kernels.prepare_head_attention(a)
    assert attend is not None
    out = attend(queries, cache, position, rotations(a, position, len(queries)))
    kernels.close()
    return out


def sample(a: LatentAttention, tokens: int, position: int) -> tuple[Tensor, Tensor]:
    """Queries, and a cache with room behind what is filled: NaN there, which must not be looked at."""
    cache = random(position + tokens + 3, a.kv_a.rows, seed=3)
    cache[position + tokens :] = math.nan
    return random(tokens, a.q_b.rows, seed=4), cache


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


@pytest.mark.parametrize("position", [0, 1, 130, 255])
@pytest.mark.parametrize("tokens", [1, 9, 63, 64, 65, 200, 512])
def test_tokens_and_positions(isa: str, tokens: int, position: int) -> None:
    a = attention()
    queries, cache = sample(a, tokens, position)
    assert error(found(a, queries, cache, position), exact(a, queries, cache, position)) < FLOAT32_ERROR


@pytest.mark.parametrize(
    ("heads", "nope", "rope", "latent", "value"),
    [(1, 1, 2, 1, 1), (5, 33, 6, 70, 17), (2, 128, 64, 512, 128), (7, 24, 0, 40, 200), (2, 16, 8, 130, 49)],
)
def test_sizes_of_heads(isa: str, heads: int, nope: int, rope: int, latent: int, value: int) -> None:
    a = attention(heads, nope, rope, latent, value)
    queries, cache = sample(a, 70, 90)
    assert error(found(a, queries, cache, 90), exact(a, queries, cache, 90)) < FLOAT32_ERROR


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "NF4"])
def test_types_of_weights(isa: str, name: str) -> None:
    a = attention(heads=2, nope=256, latent=256, name=name)
    queries, cache = sample(a, 33, 5)
    assert error(found(a, queries, cache, 5), exact(a, queries, cache, 5)) < FLOAT32_ERROR


def test_more_tokens_than_are_attended_at_a_time(isa: str) -> None:
    a = attention(heads=1, nope=16, rope=2, latent=16, value=16)
    queries, cache = sample(a, 2100, 40)
    assert error(found(a, queries, cache, 40), exact(a, queries, cache, 40)) < FLOAT32_ERROR


def test_threads_do_not_change_the_bits(isa: str) -> None:
    a = attention(heads=5)
    queries, cache = sample(a, 100, 77)
    once = found(a, queries, cache, 77, threads=1)
    for threads in (2, 3, 8):
        assert torch.equal(found(a, queries, cache, 77, threads), once)


def test_a_token_sees_nothing_that_comes_after_it(isa: str) -> None:
    a = attention()
    queries, cache = sample(a, 150, 20)
    before = found(a, queries, cache, 20)
    cache[20 + 99] = 50
    after = found(a, queries, cache, 20)
    assert torch.equal(before[:99], after[:99])
    assert not torch.isclose(before[99:], after[99:]).all(-1).any()


def test_scores_far_apart_stay_finite(isa: str) -> None:
    a = attention()
    queries, cache = sample(a, 80, 200)
    queries *= 3000
    assert error(found(a, queries, cache, 200), exact(a, queries, cache, 200)) < 1e-3  # scores of some 1e4


def test_nan_shows(isa: str) -> None:
    a = attention()
    queries, cache = sample(a, 80, 10)
    cache[30, 3] = math.nan
    out = found(a, queries, cache, 10)
    assert out[20:].isnan().any(-1).all()


def test_what_does_not_fit_is_refused() -> None:
    a = attention()
    queries, cache = sample(a, 10, 10)
    with pytest.raises(ValueError, match="k2quant_attend_heads"):
        found(a, queries, cache, 14)
    with pytest.raises(ValueError, match="the cache is"):
        found(a, queries, cache[:, 1:], 10)
    with pytest.raises(ValueError, match="activations"):
        found(a, queries[:, 1:].contiguous(), cache, 10)


def test_types_that_the_library_has_not_are_left_to_others() -> None:
    kernels = make_kernels("native", 1)
    assert isinstance(kernels, FusedKernels)
    assert kernels.prepare_head_attention(attention(nope=256, latent=256, name="Q2_K")) is None
    kernels.close()
