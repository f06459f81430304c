"""The mixture of experts, trainable: tokens are sorted by expert, so that each expert is one matrix product."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.train_demo.shape import DemoShape


def matrix(rows: int, cols: int, gain: float = 1.0) -> nn.Parameter:
    """A [rows, cols] weight whose output keeps `gain` times the size of a unit input."""
    return nn.Parameter(torch.randn(rows, cols) * gain * cols**-0.5)


class SwiGlu(nn.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = matrix(width, hidden)
        self.up_proj = matrix(width, hidden)
        self.down_proj = matrix(hidden, width, gain=0.3)

    def forward(self, x: Tensor) -> Tensor:  # [N, hidden] -> [N, hidden]
        return F.linear(F.silu(F.linear(x, self.gate_proj)) * F.linear(x, self.up_proj), self.down_proj)


class MixtureOfExperts(nn.Module):
    """K2's feed-forward: sigmoid scores, a correction bias that only chooses, one shared expert.

    `load` counts the tokens of each expert since it was last cleared; `balance` uses it.
    """

    def __init__(self, shape: DemoShape) -> None:
        super().__init__()
        self.top_k = shape.experts_per_token
        self.scaling = shape.routed_scaling
        self.gate = nn.Parameter(torch.randn(shape.experts, shape.hidden) * shape.hidden**-0.5)
        self.experts = nn.ModuleList(SwiGlu(shape.hidden, shape.expert_width) for _ in range(shape.experts))
        self.shared_experts = SwiGlu(shape.hidden, shape.expert_width)
        self.e_score_correction_bias: Tensor
        self.load: Tensor
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.experts))
        self.register_buffer("load", torch.zeros(shape.experts), persistent=False)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [N, hidden] -> ids [N, k], weights [N, k] f32
        with torch.autocast("cpu", enabled=False):
            scores = torch.sigmoid(F.linear(x.float(), self.gate))
        ids = (scores.detach() + self.e_score_correction_bias).topk(self.top_k, dim=-1).indices
        weights = scores.gather(1, ids)
        return ids, weights / (weights.sum(-1, keepdim=True) + 1e-20) * self.scaling

    def forward(self, x: Tensor) -> Tensor:  # [N, hidden] -> [N, hidden]
        ids, weights = self.route(x)
        order = ids.flatten().argsort(stable=True)
        counts = torch.bincount(ids.flatten(), minlength=len(self.experts))
        if self.training:
            self.load += counts
        parts = x[order // self.top_k].split(counts.tolist())
        answers = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        routed = answers[back].view(*ids.shape, -1)  # [N, k, hidden]
        return self.shared_experts(x) + (routed * weights[..., None].to(routed.dtype)).sum(1)

    @torch.no_grad()
    def balance(self, rate: float) -> float:
        """Move the correction bias against the load (DeepSeek-V3's rule) and clear it. Returns busiest / mean."""
        mean = self.load.mean()
        spread = float(self.load.max() / mean)
        self.e_score_correction_bias += rate * torch.sign(mean - self.load)
        self.load.zero_()
        return spread
