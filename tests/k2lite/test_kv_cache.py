"""The latent cache: what it holds, and what it refuses."""

import pytest
import torch

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
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
