"""The latent cache: what it holds, and what it refuses."""

import pytest
import torch

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.home import RAM, Home
from k2lite.kv_cache import KvCache
from quant.errors import RequestError
from tests.tiny import build


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return config_from_json(build("k2", layers=2, experts=4).config)


def test_positions_are_kept_until_they_are_cut_off(config: ModelConfig) -> None:
    cache = KvCache(config, capacity=8)
    first, second = torch.randn(3, config.latent_dim), torch.randn(2, config.latent_dim)
    cache.write(1, first)
    cache.advance(3)
    assert torch.equal(cache.write(1, second), torch.cat([first, second]))
    cache.advance(2)
    cache.truncate(2)
    assert torch.equal(cache.write(1, second), torch.cat([first[:2], second]))


def test_more_tokens_than_fit_are_refused(config: ModelConfig) -> None:
    cache = KvCache(config, capacity=8)
    cache.advance(6)
    cache.reserve(2)
    with pytest.raises(RequestError, match="9 tokens do not fit the context of 8"):
        cache.reserve(3)


@pytest.mark.parametrize("capacity", [2**40, 2**62])
def test_a_context_that_no_memory_holds_is_refused(config: ModelConfig, capacity: int) -> None:
    with pytest.raises(RequestError, match="ask for a smaller one"):
        KvCache(config, capacity)


CARD = Home("card", torch.device("cpu"), is_card=True, cache_type=torch.bfloat16)


def test_layers_on_a_card_take_half_of_the_memory(config: ModelConfig) -> None:
    cache = KvCache(config, 8, [RAM, CARD])
    assert cache.layer(0).dtype == torch.float32 and cache.layer(1).dtype == torch.bfloat16
    assert cache.nbytes == 8 * config.latent_dim * (4 + 2)
    latents = torch.randn(3, config.latent_dim)
    assert torch.equal(cache.write(1, latents), latents.bfloat16())


def test_what_is_not_written_on_a_card_or_was_cut_off_is_zero(config: ModelConfig) -> None:
    cache = KvCache(config, 8, [RAM, CARD])
    for _ in range(2):
        cache.write(1, torch.full((6, config.latent_dim), float("nan")))
        cache.advance(6)
        cache.truncate(2)
    assert cache.layer(1)[:2].isnan().all() and not cache.layer(1)[2:].any()
    cache.rewind(0)
    assert cache.length == 0 and cache.layer(1)[:2].isnan().all()


def test_a_card_that_has_no_room_for_the_cache_is_named(config: ModelConfig) -> None:
    with pytest.raises(RequestError, match=r"tokens takes [0-9.]+ GB of card, which it has not got: ask for a smaller"):
        KvCache(config, 2**45, [CARD, CARD])
