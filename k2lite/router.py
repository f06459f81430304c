"""Which experts a token goes to, and with which weights. All in float32: the choice is sensitive to rounding."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.norm import norm_of
from quant.kernels import Kernels
from quant.kernels.fused import ExpertRouter, FusedKernels


@dataclass(frozen=True)
class Routing:
    """The choice for T tokens: `ids` [T, k] int64 and `weights` [T, k] f32, in order of falling score."""

    ids: Tensor
    weights: Tensor


def route(logits: Tensor, bias: Tensor | None, config: ModelConfig) -> Routing:
    """Choose experts from router logits [T, experts] f32.

    `bias` [experts] (e_score_correction_bias) takes part in the choice but not in the weights (DeepSeek-V3,
    arXiv 2412.19437, section 2.1.2). Groups: only the experts of the best `n_groups_used` groups may be chosen.
    """
    scores = logits.sigmoid() if config.scoring == "sigmoid" else logits.softmax(-1)
    choice = scores if bias is None else scores + bias
    if config.n_groups > 1:
        choice = _mask_groups(choice, config)
    ids = choice.topk(config.experts_per_token, dim=-1).indices
    weights = scores.gather(-1, ids)
    if config.normalize_weights:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Routing(ids, weights * config.routed_scale)


def _mask_groups(choice: Tensor, config: ModelConfig) -> Tensor:
    """Put experts outside the best groups out of reach; a group's score is the sum of its two best experts."""
    grouped = choice.view(choice.shape[0], config.n_groups, -1)
    group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
    best = group_scores.topk(config.n_groups_used, dim=-1).indices
    keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, best, True)
    return grouped.masked_fill(~keep[..., None], float("-inf")).view_as(choice)


class Router:
    """The norm and the router of one layer: the weight stays float32, [experts, hidden]."""

    def __init__(
        self, norm: Tensor, weight: Tensor, bias: Tensor | None, config: ModelConfig, kernels: Kernels
    ) -> None:
        self._norm = norm
        self._weight = weight
        self._bias = bias
        self._config = config
        self._rms_norm = norm_of(kernels)
        self._most_tokens = 0
        self.described = ExpertRouter(
            norm=norm,
            weight=weight,
            bias=bias,
            eps=config.rms_eps,
            used=config.experts_per_token,
            groups=config.n_groups,
            groups_used=config.n_groups_used,
            softmax=config.scoring == "softmax",
            normalize=config.normalize_weights,
            scale=config.routed_scale,
        )
        if isinstance(kernels, FusedKernels):
            self._most_tokens = kernels.most_tokens
            self._in_one_call = kernels.prepare_router(self.described)

    def __call__(self, x: Tensor) -> tuple[Tensor, Routing]:
        """norm(`x` [T, hidden] f32) and where that goes."""
        if x.shape[0] <= self._most_tokens:
            normed, ids, weights = self._in_one_call(x)
            return normed, Routing(ids, weights)
        normed = self._rms_norm(x, self._norm, self._config.rms_eps)
        return normed, route(F.linear(normed, self._weight), self._bias, self._config)
