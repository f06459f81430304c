"""Rows of a checkpoint's tensor: only their bytes are read, and decoded piece by piece while they are in the cache.

Memory for n weights: the float32 result (4 n bytes) or the stored bytes that were asked for, the scales of those rows,
and for one piece of about a million weights its stored bytes and what decoding it takes, up to 20 MB.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from quant.checkpoint.entries import Storage, TensorEntry
from quant.checkpoint.fp8 import BLOCK, decode_fp8_into
from quant.checkpoint.int4 import Int4Weights, decode_int4_into
from quant.encode.finite import all_finite
from quant.errors import CheckpointError
from quant.large_memory import empty_tensor

_PIECE_WEIGHTS = 1 << 20


def read_float_rows(entry: TensorEntry, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` as contiguous float32 [rows, cols].

    FP8 rows start at a multiple of 128. Raises CheckpointError when they cannot be read or hold NaN or infinity.
    """
    check_range(entry, start, stop)
    values = empty_tensor((stop - start, entry.cols), torch.float32)
    scales = _scales(entry, start, stop)
    finite = True
    for first, last, buffer in _pieces(entry, start, stop):
        piece = values[first - start : last - start]
        if entry.storage == "F32":
            buffer = piece.view(torch.uint8).view(-1)
        stored = entry.values.read_rows(first, last, buffer)
        factors = _scales_of_piece(entry, scales, first - start, last - start)
        finite &= _decode_into(entry.storage, stored, factors, piece)
    if not finite:
        raise not_finite(entry, start, ~torch.isfinite(values), "weights")
    return values


def _decode_into(storage: Storage, stored: Tensor, scales: Tensor | None, values: Tensor) -> bool:
    """Fill float32 `values` [rows, cols] from what is stored for them: whether all of them are finite."""
    if storage == "FP8" and scales is not None:
        return decode_fp8_into(stored, scales, values)
    if storage == "INT4" and scales is not None:
        return decode_int4_into(Int4Weights(stored, scales), values)
    if storage != "F32":  # those are there already
        values.copy_(stored)
    return all_finite(values)


def read_stored_rows(entry: TensorEntry, start: int, stop: int) -> np.ndarray:
    """The bytes of rows `start` to `stop` of an F32, F16 or BF16 tensor as they are stored, one-dimensional.

    Raises CheckpointError as `read_float_rows` does.
    """
    if entry.scales is not None:
        raise CheckpointError(f"tensor {entry.name} is stored as {entry.storage}, which is no plain number format")
    check_range(entry, start, stop)
    row_bytes = entry.nbytes // max(1, entry.rows)
    data = empty_tensor(((stop - start) * row_bytes,), torch.uint8)
    finite = True
    for first, last, _ in _pieces(entry, start, stop):
        piece = entry.values.read_rows(first, last, data[(first - start) * row_bytes :])
        finite = finite and all_finite(piece)
    if not finite:
        dtype = entry.values.stored.dtype
        values = entry.values.read_rows(start, stop)
        raise not_finite(entry, start, ~torch.isfinite(values), f"{dtype} weights")
    return data.numpy()


def read_int4_rows(entry: TensorEntry, start: int, stop: int) -> Iterator[Int4Weights]:
    """Words and scales of rows `start` to `stop` of an INT4 tensor, piece by piece; a piece is valid until the next.

    Raises CheckpointError when they cannot be read, or a scale is NaN or infinite.
    """
    check_int4(entry)
    scales = _scales(entry, start, stop)
    assert scales is not None
    check_scales(entry, start, scales)
    for first, last, buffer in _pieces(entry, start, stop):
        yield Int4Weights(entry.values.read_rows(first, last, buffer), scales[first - start : last - start])


def check_int4(entry: TensorEntry) -> None:
    """Raise CheckpointError for a tensor that is stored in another way."""
    if entry.storage != "INT4" or entry.scales is None:
        raise CheckpointError(f"tensor {entry.name} is stored as {entry.storage}, not as INT4")


def check_scales(entry: TensorEntry, start: int, scales: Tensor) -> None:
    """Raise CheckpointError when one of the `scales` of the rows from `start` on is NaN or infinite."""
    bad = ~torch.isfinite(scales)
    if bad.any():
        raise not_finite(entry, start, bad, "scales")


def not_finite(entry: TensorEntry, start: int, bad: Tensor, what: str) -> CheckpointError:
    """The error for rows from `start` on in which the values marked in `bad` [rows, n] are NaN or infinite."""
    row, col = torch.nonzero(bad)[0].tolist()
    place = [int(index) for index in np.unravel_index(row + start, entry.shape[:-1] or (1,))]
    return CheckpointError(
        f"tensor {entry.name} of {entry.values.file.path} holds {int(bad.sum())} {what} that are NaN or infinite, the "
        f"first at {[*place[: len(entry.shape) - 1], col]}: download the file again"
    )


def check_range(entry: TensorEntry, start: int, stop: int) -> None:
    """Raise IndexError for rows that the tensor does not have, ValueError for FP8 rows that begin inside a block."""
    if not 0 <= start <= stop <= entry.rows:
        raise IndexError(f"rows {start}:{stop} of {entry.name}, which has {entry.rows}")
    if entry.storage == "FP8" and start % BLOCK:
        raise ValueError(f"rows of {entry.name} are read from {start} on, which is no multiple of {BLOCK}")


def _pieces(entry: TensorEntry, start: int, stop: int) -> Iterator[tuple[int, int, Tensor]]:
    """(first row, last row + 1, a buffer for its stored bytes) of every piece."""
    rows = max(1, _PIECE_WEIGHTS // max(1, entry.cols))
    if entry.storage == "FP8":
        rows = max(BLOCK, rows // BLOCK * BLOCK)
    rows = min(rows, stop - start)
    row_bytes = entry.values.stored.nbytes // max(1, entry.rows)
    buffer = torch.empty(rows * row_bytes if entry.storage != "F32" else 0, dtype=torch.uint8)
    for first in range(start, stop, max(1, rows)):
        yield first, min(first + rows, stop), buffer


def _scales(entry: TensorEntry, start: int, stop: int) -> Tensor | None:
    """Scales of the rows, None for a tensor without."""
    if entry.scales is None:
        return None
    if entry.storage == "FP8":
        return entry.scales.read_rows(start // BLOCK, -(-stop // BLOCK))
    return entry.scales.read_rows(start, stop)


def _scales_of_piece(entry: TensorEntry, scales: Tensor | None, first: int, last: int) -> Tensor | None:
    """Those of `scales` that belong to rows `first` to `last`, counted from where `scales` begin."""
    if scales is None:
        return None
    return scales[first // BLOCK : -(-last // BLOCK)] if entry.storage == "FP8" else scales[first:last]
