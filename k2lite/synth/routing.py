"""Routing that is not even: experts that are busier than others, and tokens that go where the one before went.

Both are put into weights that every runtime reads, so that the real router shows them. Busy experts have a larger
correction bias. Tokens are divided into topics, runs of neighbouring numbers; the first columns of the embedding are
the same for all tokens of a topic, so tokens of one topic look alike to every router. How large a bias and how many
columns a wish takes is found by drawing router outputs and choosing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from k2lite.config import ModelConfig
from quant.errors import RequestError

BUSY_SHARE = 0.2
_DRAWN_TOKENS = 3000
_HALVINGS = 16
_LARGEST_BIAS_STD = 0.5


@dataclass(frozen=True)
class Routing:
    """What is wished: `skew` is the share of all uses that the busiest fifth of the experts gets, `reuse` the share of
    a token's experts that the token before it, of the same topic, went to as well. None is as it comes: even.
    """

    skew: float | None = None
    reuse: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("skew", self.skew), ("reuse", self.reuse)):
            if value is not None and not 0 < value < 1:
                raise RequestError(f"a routing {name} of {value} is no share: choose one above 0 and below 1")

    @property
    def is_even(self) -> bool:
        """Whether nothing is wished."""
        return self.skew is None and self.reuse is None


def bias_std(config: ModelConfig, skew: float) -> float:
    """The spread of the correction bias with which the busiest fifth gets the share `skew`. Raises RequestError."""
    if config.scoring != "sigmoid":
        raise RequestError("a routing skew takes a correction bias, which this model's router has not: leave it out")
    return _solved(lambda std: share_of_busiest(config, std), skew, _LARGEST_BIAS_STD, "skew")


def shared_share(config: ModelConfig, std: float, reuse: float) -> float:
    """The share of the embedding that tokens of a topic have in common, for so much `reuse`. Raises RequestError."""
    return _solved(lambda share: share_reused(config, std, share), reuse, 1.0, "reuse")


def share_of_busiest(config: ModelConfig, std: float) -> float:
    """The share of uses of the fifth of the experts with the largest bias."""
    draw = np.random.default_rng(0)
    bias = std * draw.standard_normal(config.n_experts)
    chosen = _chosen(draw.standard_normal((_DRAWN_TOKENS, config.n_experts)), bias, config)
    busiest = np.argsort(-bias)[: max(1, round(BUSY_SHARE * config.n_experts))]
    return float(np.isin(chosen, busiest).mean())


def share_reused(config: ModelConfig, std: float, shared: float) -> float:
    """The share of a token's experts that another one chose whose logits have a correlation of `shared`."""
    draw = np.random.default_rng(0)
    bias = std * draw.standard_normal(config.n_experts)
    common, *own = (draw.standard_normal((_DRAWN_TOKENS, config.n_experts)) for _ in range(3))
    first, second = (
        _chosen(np.sqrt(shared) * common + np.sqrt(1 - shared) * noise, bias, config) for noise in own
    )
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(first, second, strict=True)]))


def _chosen(logits: np.ndarray, bias: np.ndarray, config: ModelConfig) -> np.ndarray:
    """[tokens, used]: what a router without groups picks."""
    scores = 1 / (1 + np.exp(-logits)) + bias
    return np.argpartition(-scores, config.experts_per_token, axis=-1)[:, : config.experts_per_token]


def _solved(found: Callable[[float], float], wanted: float, largest: float, name: str) -> float:
    """Where the rising function `found` comes to `wanted`."""
    least, most = found(0.0), found(largest)
    if not least <= wanted <= most:
        raise RequestError(
            f"a routing {name} of {wanted} cannot be had with this model: choose one from {least:.3f}, where it is "
            f"even, to {most:.3f}"
        )
    low, high = 0.0, largest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) < wanted else (low, middle)
    return high
