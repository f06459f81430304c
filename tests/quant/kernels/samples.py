"""Random activations, experts and calls."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quant.kernels import ExpertCall, ExpertWeights
from quant.types import block_type
from tests.quant.random_weights import random_weights


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expert(types: str, ff: int, hidden: int, seed: int) -> ExpertWeights:
    gate, up, down = (block_type(name) for name in types.split())
    return ExpertWeights(
        random_weights(gate, (ff, hidden), seed),
        random_weights(up, (ff, hidden), seed + 1),
        random_weights(down, (hidden, ff), seed + 2),
    )


def call(weights: ExpertWeights, tokens: Sequence[int], seed: int = 5) -> ExpertCall:
    return ExpertCall(weights, torch.tensor(tokens, dtype=torch.int64), random(len(tokens), seed=seed).abs())
