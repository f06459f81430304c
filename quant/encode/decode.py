"""Blocks back into float32, through the `gguf` package: plain numpy, there wherever the file format is.

NF4, which no GGUF file has, is decoded by `quant.nf4.values`.
"""

from collections.abc import Sequence

import gguf
import numpy as np
import torch

from quant.nf4.values import NF4, decode_blocks
from quant.tensor import QuantizedTensor
from quant.types import BlockType


def dequantize(tensor: QuantizedTensor) -> torch.Tensor:
    """All values: float32 of `tensor.shape`, a copy of its own."""
    return _decoded(tensor.data.reshape(-1, tensor.row_bytes), tensor.type).reshape(tensor.shape)


def dequantize_rows(tensor: QuantizedTensor, rows: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Rows by number, in the order asked for: [n] integers -> [n, cols] float32.

    Rows of all leading dimensions count. Raises IndexError for a number outside of the tensor.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.ndim != 1:
        raise ValueError(f"row numbers must be one-dimensional, got shape {wanted.shape}")
    if wanted.size and (wanted.min() < 0 or wanted.max() >= tensor.rows):
        raise IndexError(f"rows {wanted.min()}..{wanted.max()} of a tensor of {tensor.rows} rows")
    return _decoded(tensor.data.reshape(tensor.rows, tensor.row_bytes)[wanted], tensor.type)


def _decoded(encoded: np.ndarray, block: BlockType) -> torch.Tensor:
    """[rows, row bytes] uint8 -> [rows, cols] float32, never a view of the input."""
    if encoded.shape[0] == 0:
        cols = encoded.shape[1] // block.block_bytes * block.block_weights
        return torch.empty(0, cols)
    if block == NF4:
        return decode_blocks(encoded)
    # A damaged scale may be inf or NaN. Who uses the values finds that in them: numpy need not warn the user.
    with np.errstate(over="ignore", invalid="ignore"):
        values = gguf.quants.dequantize(encoded, gguf.GGMLQuantizationType(block.ggml_id))
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
