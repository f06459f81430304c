"""INT4 groups as Q4_0 blocks, without rounding a weight: both are 32 levels from -8 to 7 and one scale.

Only the order of the nibbles differs, and the scale's number format: a Q4_0 block is the scale as float16 and 16 bytes,
of which byte j holds column j in its low and column j + 16 in its high nibble.
"""

import threading

import numpy as np
import torch
from torch import Tensor

from quant.checkpoint.entries import TensorEntry
from quant.checkpoint.int4 import GROUP, Int4Weights
from quant.checkpoint.rows import check_int4, check_range, check_scales, read_int4_rows
from quant.errors import EncodeError
from quant.large_memory import empty_tensor

BLOCK_BYTES = 18
_SCALE_BYTES = 2
_LOW_NIBBLES = 0x0F0F0F0F0F0F0F0F


class InexactScales:
    """How many groups of each tensor have a scale that float16 had to round. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int, int]] = {}

    def record(self, tensor: str, part: int, count: int) -> None:
        """Note the number for one part; a part that is read again replaces its own."""
        with self._lock:
            self._counts.setdefault(tensor, {})[part] = count

    def has(self, tensor: str, part: int) -> bool:
        """Whether the part was recorded."""
        with self._lock:
            return part in self._counts.get(tensor, {})

    def totals(self) -> dict[str, int]:
        """Rounded scales by tensor, without the tensors that have none."""
        with self._lock:
            sums = {tensor: sum(parts.values()) for tensor, parts in self._counts.items()}
        return {tensor: count for tensor, count in sums.items() if count}


def read_q4_0_rows(entry: TensorEntry, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Q4_0 bytes of rows of an INT4 tensor (one-dimensional), and the number of scales that were rounded for it.

    Takes the result's memory, the scales' and up to 20 MB. Raises CheckpointError for another or a damaged tensor,
    EncodeError for a scale that float16 cannot hold at all.
    """
    check_int4(entry)
    check_range(entry, start, stop)
    blocks = empty_tensor((stop - start, entry.cols // GROUP, BLOCK_BYTES), torch.uint8)
    done = inexact = 0
    for weights in read_int4_rows(entry, start, stop):
        rows = weights.words.shape[0]
        try:
            inexact += repack_q4_0(weights, blocks[done : done + rows])
        except EncodeError as error:
            raise EncodeError(f"{entry.name}: {error}") from error
        done += rows
    return blocks.view(-1).numpy(), inexact


def count_inexact_scales(entry: TensorEntry, start: int, stop: int) -> int:
    """The number that `read_q4_0_rows` gives, from the scales alone. Raises as it does."""
    check_int4(entry)
    assert entry.scales is not None
    scales = entry.scales.read_rows(start, stop)
    check_scales(entry, start, scales)
    return _inexact(scales, scales.half())


def repack_q4_0(weights: Int4Weights, blocks: Tensor) -> int:
    """Fill `blocks`, uint8 [rows, cols / 32, 18], and return the number of scales that float16 had to round.

    The weights of all other groups keep their float32 values bit for bit, zeros their signs. Raises EncodeError for a
    scale beyond float16's range.
    """
    rows, groups = weights.scales.shape
    halves = weights.scales.half()
    if bool(torch.isinf(halves).any()):
        largest = float(weights.scales.float().abs().max())
        raise EncodeError(
            f"a group's scale is {largest:.4g}, but Q4_0 keeps scales as float16, which ends at 65504: choose a "
            "recipe that gives this tensor another type"
        )
    # Eight bytes hold 16 columns; the lowest byte the first two of them, the even column in its low nibble.
    words = weights.words.view(torch.int64).view(rows, groups, 2)
    first, second = words[..., 0], words[..., 1]
    even = (first & _LOW_NIBBLES) | ((second & _LOW_NIBBLES) << 4)
    odd = ((first >> 4) & _LOW_NIBBLES) | (second & ~_LOW_NIBBLES)
    blocks[..., :_SCALE_BYTES] = halves.view(torch.uint8).view(rows, groups, _SCALE_BYTES)
    blocks[..., _SCALE_BYTES::2] = even.view(torch.uint8).view(rows, groups, 8)
    blocks[..., _SCALE_BYTES + 1 :: 2] = odd.view(torch.uint8).view(rows, groups, 8)
    return _inexact(weights.scales, halves)


def _inexact(scales: Tensor, halves: Tensor) -> int:
    return int(torch.count_nonzero(halves.float() != scales.float()))
