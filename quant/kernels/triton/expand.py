"""Quantized matrices as plain numbers, in their own order: for tensor cores, and for rows of an embedding."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.card import ALIGNMENT, CardTensor
from quant.kernels.triton.bits import byte_to_float
from quant.kernels.triton.decoders import DECODERS
from quant.types import BlockType

_TILE_WEIGHTS = 1024  # of a row at a time


@triton.jit
def _weight(word, BYTE: tl.constexpr, scale, minimum, SIGNED: tl.constexpr, ZERO: tl.constexpr, MINIMA: tl.constexpr):
    value = scale * (byte_to_float(word, BYTE, SIGNED) - ZERO)
    return value - minimum if MINIMA else value


@triton.jit
def _store(
    out,
    words,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    mask,
    SIGNED: tl.constexpr,
    ZERO: tl.constexpr,
    MINIMA: tl.constexpr,
):
    """Weights of one part of the words: four neighbours each, put side by side in registers and stored together."""
    word, minimum = words[PART], words[2 * PARTS + 1 + PART]
    scale = words[PARTS] * words[PARTS + 1 + PART]
    a = _weight(word, 0, scale, minimum, SIGNED, ZERO, MINIMA)
    b = _weight(word, 1, scale, minimum, SIGNED, ZERO, MINIMA)
    c = _weight(word, 2, scale, minimum, SIGNED, ZERO, MINIMA)
    d = _weight(word, 3, scale, minimum, SIGNED, ZERO, MINIMA)
    four = tl.join(tl.join(a, c), tl.join(b, d))
    values = tl.reshape(four, [word.shape[0], word.shape[1] * 4]).to(out.dtype.element_ty)
    place = out + tl.arange(0, word.shape[1] * 4)[None, :]
    if mask is None:
        tl.store(place, values)
    else:
        tl.store(place, values, mask=mask)


@triton.jit
def expand_kernel(
    bytes_,
    starts,  # [matrices] int64: where each begins, in bytes
    out,  # [matrices, rows, COLS], of any float type
    rows,
    WORDS: tl.constexpr,
    COLS: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    RUN: tl.constexpr,
    SPAN: tl.constexpr,
    PARTS: tl.constexpr,
    SIGNED: tl.constexpr,
    ZERO: tl.constexpr,
    MINIMA: tl.constexpr,
    BLOCKS: tl.constexpr,
    ALIGNED: tl.constexpr,  # bytes that every start is a multiple of
):
    """A program is one row of one matrix."""
    RUNS: tl.constexpr = BLOCK_WORDS // RUN
    LAST: tl.constexpr = COLS // BLOCK
    matrix = tl.program_id(1)
    row = tl.program_id(0)
    start = tl.multiple_of(tl.load(starts + matrix), ALIGNED)
    words_of_row = bytes_ + (start + row.to(tl.int64) * ROW_BYTES)
    target = out + (matrix * rows + row).to(tl.int64) * COLS
    entry = tl.arange(0, BLOCKS * RUNS)[:, None]
    place = tl.arange(0, RUN)[None, :]
    run = entry % RUNS
    group = run // (SPAN // RUN) * (PARTS * SPAN) + run % (SPAN // RUN) * RUN
    for first in range(0, LAST, BLOCKS):
        block = first + entry // RUNS
        if LAST % BLOCKS == 0:
            mask = None
        else:
            mask = block < LAST
        words = WORDS(words_of_row, block, run, place, mask)
        at = target + block * BLOCK + group * 4
        for part in tl.static_range(PARTS):
            _store(at + part * SPAN * 4, words, part, PARTS, mask, SIGNED, ZERO, MINIMA)


def _launch(data: Tensor, starts: Tensor, out: Tensor, block: BlockType, aligned: int) -> Tensor:
    """Fills out [matrices, rows, cols] with what begins at `starts`."""
    decoder = DECODERS[block]
    matrices, rows, cols = out.shape
    if matrices and rows:
        blocks = _TILE_WEIGHTS // block.block_weights
        expand_kernel[(rows, matrices)](
            data, starts, out, rows, BLOCKS=blocks, ALIGNED=aligned, num_warps=1, **decoder.arguments(cols)
        )
    return out


def expanded_matrices(data: Tensor, starts: Tensor, rows: int, cols: int, block: BlockType) -> Tensor:
    """[n, rows, cols] bfloat16: matrices of n `starts`, int64 multiples of 32 on the device, in bytes of `data`."""
    out = torch.empty(len(starts), rows, cols, dtype=torch.bfloat16, device=data.device)
    return _launch(data, starts, out, block, ALIGNMENT)


def expanded(w: CardTensor, heads: int, first: int, last: int) -> Tensor:
    """[heads, last - first, cols] bfloat16: the same rows of each of the heads' matrices."""
    starts = torch.arange(heads, device=w.data.device) * (w.nbytes // heads) + first * w.row_bytes
    out = torch.empty(heads, last - first, w.cols, dtype=torch.bfloat16, device=w.data.device)
    return _launch(w.data, starts, out, w.type, _row_alignment(w.row_bytes))


def expanded_rows(w: CardTensor, ids: Tensor) -> Tensor:
    """Rows by number, [n, cols] float32."""
    out = torch.empty(len(ids), 1, w.cols, dtype=torch.float32, device=w.data.device)
    return _launch(w.data, ids * w.row_bytes, out, w.type, _row_alignment(w.row_bytes))[:, 0]


def _row_alignment(row_bytes: int) -> int:
    """The largest power of two, up to 16, that every row's start is a multiple of."""
    return min(16, row_bytes & -row_bytes)
