"""Float weights into blocks: the project's own encoders where there are any, ggml's for the other types.

What no encoder could take is refused here.
"""

import math

import numpy as np
import torch

from quant.encode.ggml import encode_ggml, ggml_identity, needs_importance
from quant.encode.native import TYPES as NATIVE_TYPES
from quant.encode.native import encode_native, native_identity
from quant.errors import EncodeError, UnsupportedError
from quant.types import BlockType

HALF_MAX = 65504.0  # largest number of IEEE half precision, in which most types keep their scales
FULL_RANGE_TYPES = ("F32", "BF16", "MXFP4")  # these have float32's exponents
IMPORTANCE_MAX = 1e20  # beyond this, sums of importance * weight^2 may overflow in the encoders
ENCODERS = ("native", "ggml")


def encode(
    values: torch.Tensor, block: BlockType, importance: torch.Tensor | None = None, encoders: str = "native"
) -> np.ndarray:
    """The bytes of `values` in type `block`: one-dimensional uint8, rows one after the other.

    `values` is float32 of shape [..., cols]. `importance` is float32 [cols], the weight of each column's squared
    error, shared by all rows. `encoders` "ggml" asks for ggml's even where there are our own. Raises EncodeError for
    inf or NaN in the input, for values that the type cannot hold, for rows that no whole number of blocks fits, and
    for an importance that is missing or invalid. Safe to call from several threads at once; the interpreter lock is
    released while the encoder runs.
    """
    native = _serves_natively(block, encoders)
    cols = _checked_cols(values, block)
    weights = _checked_importance(importance, block, cols, needed=not native and needs_importance(block))
    rows = values.detach().contiguous().view(-1, cols)
    encoded = np.empty(rows.shape[0] * block.row_bytes(cols), dtype=np.uint8)
    if rows.shape[0] == 0:
        return encoded
    if native:
        if not encode_native(rows, block, weights, encoded):  # which looks at the range while it is at it
            _check_range(rows, block)
        return encoded
    _check_range(rows, block)
    encode_ggml(rows, block, weights, encoded)
    return encoded


def encoder_identity() -> str:
    """Names and versions of what encodes: equal identities give equal bytes for equal values, on any machine."""
    return f"{native_identity()}, {ggml_identity()}"


def encoder_name(block: BlockType) -> str:
    """Whose encoder makes blocks of this type: "k2quant" or "ggml"."""
    return "k2quant" if block.name in NATIVE_TYPES else "ggml"


def _serves_natively(block: BlockType, encoders: str) -> bool:
    if encoders not in ENCODERS:
        raise UnsupportedError(f"unknown encoders {encoders!r}: known are {', '.join(ENCODERS)}")
    return encoders == "native" and block.name in NATIVE_TYPES


def _checked_cols(values: torch.Tensor, block: BlockType) -> int:
    if values.dtype != torch.float32 or values.ndim == 0 or values.device.type != "cpu":
        raise TypeError(
            f"the encoder takes float32 rows in RAM, got {values.dtype} {tuple(values.shape)} on {values.device}"
        )
    cols = values.shape[-1]
    if cols == 0 or not block.fits(cols):
        raise EncodeError(
            f"a row of {cols} weights is not a whole number of {block} blocks of {block.block_weights}: "
            "choose another type for this tensor"
        )
    return cols


def _check_range(values: torch.Tensor, block: BlockType) -> None:
    low, high = torch.aminmax(values)
    largest = max(-float(low), float(high))
    if not math.isfinite(largest):
        bad = int(values.numel() - torch.isfinite(values).sum())
        raise EncodeError(f"{bad} of {values.numel()} weights are inf or NaN: the checkpoint is damaged")
    if largest > HALF_MAX and block.name not in FULL_RANGE_TYPES:
        raise EncodeError(
            f"weights up to {largest:.3g} do not fit into {block}, whose scales end at {HALF_MAX:.0f}: "
            f"choose one of {', '.join(FULL_RANGE_TYPES)}"
        )


def _checked_importance(
    importance: torch.Tensor | None, block: BlockType, cols: int, needed: bool
) -> torch.Tensor | None:
    if importance is None:
        if needed:
            raise EncodeError(f"{block} needs an importance for each column: give one or choose another type")
        return None
    if importance.dtype != torch.float32 or tuple(importance.shape) != (cols,):
        raise EncodeError(f"importance is {importance.dtype} {tuple(importance.shape)}, but must be float32 ({cols},)")
    low, high = torch.aminmax(importance)
    if not (low >= 0 and 0 < high <= IMPORTANCE_MAX):
        raise EncodeError(
            f"importance runs from {float(low):.3g} to {float(high):.3g}, but must be finite, not negative and "
            "not zero everywhere: collect it again"
        )
    return importance.detach().contiguous()
