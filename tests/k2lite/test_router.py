"""The two routers: which experts are chosen and what they weigh."""

from dataclasses import replace

import torch

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.router import route
from tests.tiny import build


def config_of(family: str) -> ModelConfig:
    return config_from_json(build(family, experts=8).config)


def test_bias_takes_part_in_the_choice_but_not_in_the_weights():
    c = replace(config_of("k2"), experts_per_token=2)
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0]])
    bias = torch.zeros(8)
    bias[7] = 5.0
    routing = route(logits, bias, c)
    assert routing.ids.tolist() == [[7, 0]]
    scores = logits.sigmoid()[0, [7, 0]]
    torch.testing.assert_close(routing.weights[0], scores / scores.sum() * c.routed_scale)


def test_only_experts_of_the_best_groups_are_chosen():
    c = replace(config_of("k2"), n_groups=4, n_groups_used=2, experts_per_token=3)
    # Groups of two: sums 0.9 + 0.1, 0.6 + 0.5, 0.8 + 0.0, 0.7 + 0.6; the two best are the second and the last.
    wanted = torch.tensor([[0.9, 0.1, 0.6, 0.5, 0.8, 0.001, 0.7, 0.6]])
    routing = route(torch.logit(wanted), torch.zeros(8), c)
    assert sorted(routing.ids[0].tolist()) == [2, 6, 7]


def test_greedy_softmax_weights_are_probabilities():
    c = config_of("deepseek-v2-lite")
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    routing = route(logits, None, c)
    probabilities = logits.softmax(-1)
    torch.testing.assert_close(routing.weights, probabilities.topk(c.experts_per_token).values)
