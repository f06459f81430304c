"""INT4 checkpoints (compressed-tensors, pack-quantized): groups of 32 weights along the row with one scale.

Eight columns share a 32-bit word, the lowest nibble first; a nibble n stands for the level n - 8:
weight[r, c] = (nibble[r, c] - 8) * scale[r, c // 32].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quant.encode.finite import all_finite
from quant.native_library import built_native

GROUP = 32
WORD_NIBBLES = 8


@dataclass(frozen=True, eq=False)
class Int4Weights:
    """A matrix as it is stored: `words` int32 [rows, cols / 8] and `scales` [rows, cols / 32], both contiguous."""

    words: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the decoded matrix."""
        rows, words = self.words.shape
        return rows, words * WORD_NIBBLES


def decode_int4(weights: Int4Weights) -> Tensor:
    """float32 [rows, cols]: each level times the float32 value of its group's scale, rounded once."""
    values = torch.empty(weights.shape)
    decode_int4_into(weights, values)
    return values


def decode_int4_into(weights: Int4Weights, values: Tensor) -> bool:
    """`decode_int4` into contiguous float32 `values` [rows, cols]: whether all of them are finite."""
    rows, cols = weights.shape
    _check_layout(weights, values)
    native = built_native()
    if native is None or not values.numel():
        return _decode_with_torch(weights, values)
    scales = weights.scales.float().contiguous()
    words = weights.words.contiguous()
    return native.call("k2quant_decode_int4", words.data_ptr(), scales.data_ptr(), rows, cols, values.data_ptr())


def _check_layout(weights: Int4Weights, values: Tensor) -> None:
    rows, cols = weights.shape
    words, scales = weights.words, weights.scales
    if words.dtype != torch.int32 or cols % GROUP or tuple(scales.shape) != (rows, cols // GROUP):
        raise ValueError(f"words {words.dtype} {tuple(words.shape)} and scales {tuple(scales.shape)} do not match")
    if values.dtype != torch.float32 or tuple(values.shape) != (rows, cols) or not values.is_contiguous():
        raise ValueError(f"values must be contiguous float32 {rows} x {cols}, got {values.dtype} {values.shape}")


def _decode_with_torch(weights: Int4Weights, values: Tensor) -> bool:
    """The same values where the native library was not built, and the second opinion of its test."""
    rows, cols = weights.shape
    # Little endian: a byte holds two neighbouring columns, the even one in its low nibble.
    pairs = weights.words.view(torch.uint8)
    levels = values.view(rows, cols // 2, 2)
    levels[..., 0] = pairs & 15
    levels[..., 1] = pairs >> 4
    levels -= 8
    levels.view(rows, cols // GROUP, GROUP).mul_(weights.scales.float().unsqueeze(-1))
    return all_finite(values)
