"""Who trains what: Muon the hidden matrices, AdamW embedding, head, norms and routers. And the rate's course."""

from dataclasses import dataclass

import torch
from torch import nn

from scripts.train_demo.model import DemoModel

_ADAM_NAMES = ("embed_tokens", "lm_head", "norm", "mlp.gate")


@dataclass(frozen=True)
class Schedule:
    """Warm-up, a constant part, then a straight fall to a twentieth. `steps` may be changed while constant."""

    steps: int
    warmup: int = 40
    fall_share: float = 0.55
    rounding_share: float = 0.25

    def factor(self, step: int) -> float:
        fall = self.steps * self.fall_share
        left = (self.steps - step) / fall
        return min((step + 1) / self.warmup, 1.0, max(left, 0.05))

    def rounds(self, step: int) -> bool:
        """Whether `step` trains on weights rounded to 4 bits."""
        return step >= self.steps * (1 - self.rounding_share)


def uses_adam(name: str) -> bool:
    return any(part in name for part in _ADAM_NAMES) and not name.endswith("gate_proj")


def make_optimizers(model: DemoModel, matrix_rate: float, other_rate: float) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and not uses_adam(name)]
    others = [p for name, p in named if p.ndim != 2 or uses_adam(name)]
    muon = torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adam]


def rounded_parameters(model: DemoModel) -> list[nn.Parameter]:
    """The weights that Q4_K_M stores in 4 bits: all matrices but routers, head and kv_b, which keep more."""
    kept = ("mlp.gate", "lm_head", "kv_b_proj", "norm")
    return [
        p
        for name, p in model.named_parameters()
        if p.ndim == 2 and (name.endswith("gate_proj") or not any(part in name for part in kept))
    ]
