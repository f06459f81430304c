"""FP8 checkpoints: e4m3 codes and one factor for each block of 128x128 weights.

weight[i, j] = e4m3(code[i, j]) * scale_inv[i // 128, j // 128]; the last blocks may be partial. The factor's name says
inverse, but it is multiplied.
"""

import torch
from torch import Tensor

from quant.encode.finite import all_finite
from quant.native_library import built_native

BLOCK = 128

# e4m3 has an exponent bias of 7, float16 one of 15.
_BIAS_FACTOR = 2.0 ** (15 - 7)
_LARGEST = 448.0
_ALL_BUT_TOP_EXPONENT_BIT = ~0x4000


def scale_shape(rows: int, cols: int) -> tuple[int, int]:
    """Shape of the factors of a matrix: one for each block begun."""
    return -(-rows // BLOCK), -(-cols // BLOCK)


def decode_fp8(codes: Tensor, scale_inv: Tensor) -> Tensor:
    """float32 [rows, cols] of contiguous e4m3 codes [rows, cols] and factors of `scale_shape`.

    Rounded once, by the multiplication. Codes that mean NaN give NaN. A factor above 2^119 may give infinity.
    """
    weights = torch.empty(codes.shape)
    decode_fp8_into(codes, scale_inv, weights)
    return weights


def decode_fp8_into(codes: Tensor, scale_inv: Tensor, weights: Tensor) -> bool:
    """`decode_fp8` into contiguous float32 `weights` [rows, cols]: whether all of them are finite."""
    rows, cols = codes.shape
    _check_layout(codes, scale_inv, weights)
    native = built_native()
    if native is None or not codes.numel():
        return _decode_with_torch(codes, scale_inv, weights)
    factors = scale_inv.float().contiguous()
    return native.call("k2quant_decode_fp8", codes.data_ptr(), factors.data_ptr(), rows, cols, weights.data_ptr())


def _check_layout(codes: Tensor, scale_inv: Tensor, weights: Tensor) -> None:
    rows, cols = codes.shape
    if codes.element_size() != 1 or not codes.is_contiguous():
        raise ValueError(f"codes must be contiguous bytes, got {codes.dtype} with strides {codes.stride()}")
    if tuple(scale_inv.shape) != scale_shape(rows, cols):
        raise ValueError(f"factors {tuple(scale_inv.shape)}, but {scale_shape(rows, cols)} for {rows} x {cols} codes")
    if weights.dtype != torch.float32 or weights.shape != codes.shape or not weights.is_contiguous():
        raise ValueError(f"weights must be contiguous float32 {rows} x {cols}, got {weights.dtype} {weights.shape}")


def _decode_with_torch(codes: Tensor, scale_inv: Tensor, weights: Tensor) -> bool:
    """The same values where the native library was not built, and the second opinion of its test."""
    rows, cols = codes.shape
    weights.copy_(_e4m3_over_256(codes))
    # Two exact powers of two: the product is rounded as if the code's own value were multiplied.
    factors = (scale_inv.float() * _BIAS_FACTOR).repeat_interleave(BLOCK, dim=1)[:, :cols]
    whole = rows // BLOCK
    weights[: whole * BLOCK].view(whole, BLOCK, cols).mul_(factors[:whole, None])
    if rows % BLOCK:
        weights[whole * BLOCK :].mul_(factors[whole])
    return all_finite(weights)


def _e4m3_over_256(codes: Tensor) -> Tensor:
    """Values of the codes divided by 256, exact.

    Moving the seven bits of exponent and mantissa to the same fields of float16 leaves only the difference of the
    biases, subnormal codes included. This is several times faster than torch's own conversion.
    """
    bits = codes.view(torch.int8).to(torch.int16)  # the sign fills the upper byte, so the shift keeps it on top
    bits <<= 7
    bits &= _ALL_BUT_TOP_EXPONENT_BIT
    values = bits.view(torch.float16).to(torch.float32)
    if values.numel():
        # float16 has room for the two NaN codes as +-480, where e4m3 ends at 448.
        limit = _LARGEST / _BIAS_FACTOR
        least, largest = torch.aminmax(values)
        if largest > limit or least < -limit:
            values.masked_fill_(values.abs() > limit, torch.nan)
    return values
