"""How far written weights may be from the source: what a correct encoder never exceeds and wrong bytes do.

The measure is a block's relative error |decoded - source| / |source| (Euclidean norms). Zeros in place of a block have
1, the values of another row or expert about 1.4, a wrong sign 2. A correct encoder's worst case follows from the
format: one weight alone at the end of a block's range makes the step, all others lie half a step away from a code. For
Q4_0, with 32 weights and a step of 1/8 of the largest, that is sqrt(31) / 16 = 0.35. Where the encoder searches its
codes (K and IQ types) the limit is what adversarial rows reached with ggml's encoders and ours, and half as much again.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ErrorBound:
    """Limits for blocks of `block_weights` consecutive weights.

    `relative` is the largest relative error without importance. With importance an encoder gives up weights that
    hardly matter, so then either the plain or the weighted error has to keep `relative_weighted`. `absolute` is what
    each weight may be off on top of that, because the block's scales are halves and small ones lose their bits.
    """

    block_weights: int
    relative: float
    relative_weighted: float
    absolute: float = 0.0


# Half the distance between the smallest halves, times what a scale is multiplied with at most, gives `absolute`.
_Q = 2.0**-25

_BOUNDS = {
    "F32": ErrorBound(1, 0.0, 0.0),
    "F16": ErrorBound(1, 2.0**-11, 2.0**-11, _Q),
    "BF16": ErrorBound(1, 2.0**-8, 2.0**-8),
    "Q4_0": ErrorBound(32, 0.36, 0.7, 8 * _Q),
    "Q4_1": ErrorBound(32, 0.36, 0.7, (15 + 1) * _Q),
    "Q5_0": ErrorBound(32, 0.25, 0.6, 16 * _Q),
    "Q5_1": ErrorBound(32, 0.20, 0.5, (31 + 1) * _Q),
    "Q8_0": ErrorBound(32, 0.025, 0.025, 127 * _Q),
    "Q2_K": ErrorBound(256, 0.90, 0.9, (15 * 3 + 15) * _Q),
    "Q3_K": ErrorBound(256, 0.60, 0.7, 32 * 4 * _Q),
    "Q4_K": ErrorBound(256, 0.25, 0.4, (63 * 15 + 63) * _Q),
    "Q5_K": ErrorBound(256, 0.15, 0.3, (63 * 31 + 63) * _Q),
    "Q6_K": ErrorBound(256, 0.10, 0.3, 128 * 32 * _Q),
    "IQ4_NL": ErrorBound(32, 0.28, 0.7, 127 * _Q),
    "IQ4_XS": ErrorBound(256, 0.38, 0.5, 32 * 127 * _Q),
    "MXFP4": ErrorBound(32, 0.40, 0.4, 2.0**-120),  # smaller weights become 0, see quant.encode.encode
    "NF4": ErrorBound(64, 0.40, 0.4, _Q),
    # Two bits and less cannot hold every pattern: real weights keep these limits, rows of few large values may not.
    "IQ3_S": ErrorBound(256, 0.80, 0.9, 31 * 15 * _Q),
    "IQ3_XXS": ErrorBound(256, 0.80, 0.9, 480 * _Q),
    "IQ2_S": ErrorBound(256, 0.90, 0.95, 167 * _Q),
    "IQ2_XS": ErrorBound(256, 0.90, 0.95, 167 * _Q),
    "IQ2_XXS": ErrorBound(256, 0.90, 0.95, 167 * _Q),
    "IQ1_M": ErrorBound(256, 0.95, 0.95, 17 * _Q),
    "IQ1_S": ErrorBound(256, 0.95, 0.95, 17 * _Q),
    "TQ1_0": ErrorBound(256, 0.99, 0.99, _Q),
    "TQ2_0": ErrorBound(256, 0.99, 0.99, _Q),
}

# Room for the float32 arithmetic of a decoder.
_SLACK = 1.001


@dataclass(frozen=True)
class RowErrors:
    """Errors of some rows, as sums that can be added up. `beyond` are the numbers of rows outside of the bound.

    `worst` is the largest block error as a multiple of its limit (inf for values that are not finite).
    """

    squared_error: float
    squared_value: float
    weighted_error: float
    weighted_value: float
    beyond: tuple[int, ...]
    worst: float


def error_bound(type_name: str) -> ErrorBound:
    """The limits of a type. Raises KeyError for a type without any."""
    return _BOUNDS[type_name]


def measure_rows(bound: ErrorBound, source: Tensor, decoded: Tensor, importance: Tensor | None = None) -> RowErrors:
    """Compare decoded rows with the source: both float32 [rows, cols], `importance` float32 [rows, cols].

    Blocks follow each other through all rows, as in types whose blocks do not end with the row.
    """
    values, error = source.double(), decoded.double() - source.double()
    ones = torch.ones_like(values)
    weights = ones if importance is None else importance.double()
    limit = bound.relative if importance is None else bound.relative_weighted
    excess = _excess(values, error, ones, bound, limit)
    if importance is not None:
        excess = torch.minimum(excess, _excess(values, error, weights, bound, limit))
    excess = torch.nan_to_num(excess, nan=math.inf, posinf=math.inf)
    first_weights = (excess > 1).nonzero().flatten() * bound.block_weights
    return RowErrors(
        float((error**2).sum()),
        float((values**2).sum()),
        float((weights * error**2).sum()),
        float((weights * values**2).sum()),
        tuple(sorted({int(first) // source.shape[-1] for first in first_weights})),
        float(excess.max()) if excess.numel() else 0.0,
    )


def _block_sums(values: Tensor, bound: ErrorBound) -> Tensor:
    """Sums over blocks: [rows, cols] -> [blocks], the last of which may be shorter."""
    flat = values.flatten()
    missing = -flat.numel() % bound.block_weights
    return torch.nn.functional.pad(flat, (0, missing)).view(-1, bound.block_weights).sum(1)


def _excess(values: Tensor, error: Tensor, weights: Tensor, bound: ErrorBound, relative: float) -> Tensor:
    """Norm of each block's weighted error over its limit: [rows, cols] each -> [blocks].

    The smallest float32 keeps a limit of 0 from dividing by it.
    """
    relative_part = _SLACK * relative * _block_sums(weights * values**2, bound).sqrt()
    absolute_part = bound.absolute * _block_sums(weights, bound).sqrt() + torch.finfo(torch.float32).tiny
    return _block_sums(weights * error**2, bound).sqrt() / (relative_part + absolute_part)
