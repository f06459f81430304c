"""Root mean square normalisation."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row of `x` [..., n] f32 to unit root mean square, then by `weight` [n]."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
