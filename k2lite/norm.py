"""Root mean square normalisation."""

from collections.abc import Callable

import torch
from torch import Tensor

from quant.kernels import Kernels
from quant.kernels.fused import FusedKernels

# As `rms_norm` below, for x [T, n].
Norm = Callable[[Tensor, Tensor, float], Tensor]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row of `x` [..., n] f32 to unit root mean square, then by `weight` [n]."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def norm_of(kernels: Kernels) -> Norm:
    """The kernels' own norm where they have one: one call instead of five small steps."""
    return kernels.rms_norm if isinstance(kernels, FusedKernels) else rms_norm
