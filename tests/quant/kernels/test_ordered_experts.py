"""Experts in one call or in several, in the same order: the same bits."""

from collections.abc import Iterator

import pytest
import torch

from quant.kernels import ExpertCall, ExpertWeights
from quant.kernels.native import NativeKernels
from quant.types import block_type
from tests.quant.random_weights import random_weights

HIDDEN, WIDTH = 32, 32


@pytest.fixture
def kernels() -> Iterator[NativeKernels]:
    kernels = NativeKernels(2)
    yield kernels
    kernels.close()


def call(type_name: str, tokens: torch.Tensor) -> ExpertCall:
    block = block_type(type_name)
    gate, up = (random_weights(block, (WIDTH, HIDDEN)) for _ in range(2))
    return ExpertCall(ExpertWeights(gate, up, random_weights(block, (HIDDEN, WIDTH))), tokens, torch.rand(len(tokens)))


@pytest.mark.parametrize("most", [3, 40])
def test_several_calls_give_the_bits_of_one(kernels: NativeKernels, most: int) -> None:
    x = torch.randn(60, HIDDEN)
    calls = [call("Q8_0", torch.randperm(60)[: 1 + number % most].sort().values) for number in range(most, most + 9)]
    together = kernels.experts(x, calls)
    y = torch.zeros(x.shape)
    for part in (calls[:1], calls[1:4], calls[4:]):
        assert kernels.add_experts(x, part, y)
    assert torch.equal(y, together)


def test_a_wave_ends_between_two_experts(kernels: NativeKernels) -> None:
    # 131,072 tokens of this width make up a wave: the second expert's would begin in the first and end in the next.
    x = torch.randn(100_000, HIDDEN)
    calls = [call("Q8_0", torch.arange(100_000)), call("Q8_0", torch.arange(31_075))]
    together = kernels.experts(x, calls)
    y = torch.zeros(x.shape)
    for one in calls:
        assert kernels.add_experts(x, [one], y)
    assert torch.equal(y, together)


def test_a_type_of_other_kernels_leaves_the_sum_alone(kernels: NativeKernels) -> None:
    x, y = torch.randn(4, HIDDEN), torch.ones(4, HIDDEN)
    own, other = call("Q8_0", torch.arange(4)), call("Q4_1", torch.arange(4))
    assert not kernels.add_experts(x, [own, other], y)
    assert torch.equal(y, torch.ones(4, HIDDEN))
    one_by_one = kernels.experts(x, [own]) + kernels.experts(x, [other])
    assert torch.equal(kernels.experts(x, [own, other]), one_by_one)
