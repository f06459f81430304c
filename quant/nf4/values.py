"""NF4: four bits a weight that index a fixed table, and one factor for every 64 weights.

Blocks are runs of 64 weights of the flattened matrix; the factor (absmax) is the largest magnitude among them. The
table comes from "QLoRA" (arXiv 2305.14314, appendix E): quantiles of the normal distribution, eight below zero and
nine from zero on, divided by the largest; the outermost ones lie at the probability 0.9677083. The values here are
those that bitsandbytes rounds them to, and a weight gets the table's nearest value, as it does there: the same bytes.
"""

import numpy as np
import torch
from torch import Tensor

from quant.errors import EncodeError
from quant.types import BlockType

BLOCK = 64

NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

_FACTOR_BYTES = 4
_CODE_BYTES = BLOCK // 2

# How k2lite keeps NF4 in memory: each block's float32 factor, then its 32 bytes of codes. No GGUF file has this type.
NF4 = BlockType("NF4", -1, BLOCK, _FACTOR_BYTES + _CODE_BYTES)

_BLOCK_WORDS = NF4.block_bytes // 4

# Weights that are encoded or decoded at a time: with all that they become they stay in a core's cache.
_CHUNK = 1 << 17

# A smaller factor counts as this one when weights are divided by it: its inverse is still finite.
_SMALLEST_FACTOR = np.float32(1e-38)


def nf4_table() -> Tensor:
    """The 16 values, float32 in rising order."""
    return torch.tensor(NF4_VALUES, dtype=torch.float32)


def encode_nf4(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """float32 of any shape -> codes uint8 [ceil(n / 2)], factors float32 [ceil(n / 64)].

    The first weight of a pair is in the high bits. The last block may be shorter; an odd number of weights is filled
    up with a zero. Takes one thread, and the interpreter's lock only between chunks. Raises EncodeError for NaN and
    infinity.
    """
    flat = values.detach().reshape(-1).numpy()
    codes = np.empty(-(-flat.size // 2), dtype=np.uint8)
    factors = np.empty(-(-flat.size // BLOCK), dtype=np.float32)
    whole = flat.size // BLOCK * BLOCK
    limits = _limits()
    for start in range(0, whole, _CHUNK):
        chunk = flat[start : min(start + _CHUNK, whole)].reshape(-1, BLOCK)
        first = start // BLOCK
        block_factors = factors[first : first + len(chunk)]
        np.maximum(chunk.max(axis=1), -chunk.min(axis=1), out=block_factors)
        if not np.isfinite(block_factors).all():
            raise EncodeError(f"{np.count_nonzero(~np.isfinite(flat))} weights are NaN or infinite: NF4 has neither")
        inverse = np.float32(1) / np.maximum(block_factors, _SMALLEST_FACTOR)
        scaled = (chunk * inverse[:, None]).reshape(-1)
        codes[start // 2 : start // 2 + scaled.size // 2] = _packed(scaled, limits)
    if whole < flat.size:
        _encode_rest(flat[whole:], codes[whole // 2 :], factors[-1:], limits)
    return codes, factors


def decode_nf4(codes: np.ndarray, factors: np.ndarray, count: int, block: int = BLOCK) -> Tensor:
    """codes uint8 and factors float32 of blocks of `block` weights, an even number -> float32 [count]."""
    values = torch.empty(count)
    whole, flat = count // block * block, values.numpy()
    step = max(1, _CHUNK // block) * block
    pairs = _pairs()
    for start in range(0, whole, step):
        stop = min(start + step, whole)
        chunk = pairs.take(codes[start // 2 : stop // 2]).view(np.float32).reshape(-1, block)
        np.multiply(chunk, factors[start // block : stop // block, None], out=flat[start:stop].reshape(-1, block))
    if whole < count:
        rest = pairs.take(codes[whole // 2 : -(-count // 2)]).view(np.float32)[: count - whole]
        np.multiply(rest, factors[whole // block], out=flat[whole:])
    return values


def to_blocks(codes: np.ndarray, factors: np.ndarray, blocks: np.ndarray) -> None:
    """Put whole blocks' codes uint8 and factors float32 together into `blocks`, uint8 of NF4's size."""
    target = blocks.reshape(-1, NF4.block_bytes)
    target[:, :_FACTOR_BYTES] = factors.view(np.uint8).reshape(-1, _FACTOR_BYTES)
    target[:, _FACTOR_BYTES:] = codes.reshape(-1, _CODE_BYTES)


def apart(data: Tensor) -> tuple[Tensor, Tensor]:
    """Whole blocks as cards have them, uint8 [n]: views of all factors, float32, and of all codes, uint8."""
    codes_end = data.numel() // NF4.block_bytes * _CODE_BYTES
    return data[codes_end:].view(torch.float32), data[:codes_end]


def set_apart(blocks: Tensor) -> Tensor:
    """Whole blocks, uint8 [n] on a multiple of four bytes -> the same bytes, all codes in front of all factors.

    Codes come first since they are read many bytes at a time: they begin where the whole matrix does.
    """
    words = blocks.view(torch.int32).view(-1, _BLOCK_WORDS)
    return torch.cat((words[:, 1:].reshape(-1), words[:, 0])).view(torch.uint8)


def put_together(data: Tensor) -> Tensor:
    """Undo `set_apart`."""
    factors, codes = apart(data)
    words = torch.empty(len(factors), _BLOCK_WORDS, dtype=torch.int32, device=data.device)
    words[:, 0] = factors.view(torch.int32)
    words[:, 1:] = codes.view(torch.int32).view(-1, _BLOCK_WORDS - 1)
    return words.view(-1).view(torch.uint8)


def decode_blocks(blocks: np.ndarray) -> Tensor:
    """Blocks of the type NF4, uint8 [rows, bytes] -> float32 [rows, weights]."""
    rows, row_bytes = blocks.shape
    cols = row_bytes // NF4.block_bytes * BLOCK
    parts = np.ascontiguousarray(blocks).reshape(-1, NF4.block_bytes)
    values = torch.empty(rows, cols)
    flat, pairs = values.numpy().reshape(-1, BLOCK), _pairs()
    for start in range(0, len(parts), _CHUNK // BLOCK):
        chunk = parts[start : start + _CHUNK // BLOCK]
        factors = np.ascontiguousarray(chunk[:, :_FACTOR_BYTES]).view(np.float32)
        decoded = pairs.take(chunk[:, _FACTOR_BYTES:]).view(np.float32)
        # A damaged factor may be inf or NaN. Who uses the values finds that in them: numpy need not warn the user.
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(decoded, factors, out=flat[start : start + len(chunk)])
    return values


def _limits() -> np.ndarray:
    """Half-way points between neighbours of the table, float32: a code is the number of those below the weight."""
    table = np.array(NF4_VALUES, dtype=np.float32)
    return (table[:-1] + table[1:]) / np.float32(2)


def _packed(scaled: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Weights between -1 and 1, an even number -> two codes a byte.

    Counting the limits below takes fifteen passes without a branch: thirteen times as fast as a search.
    """
    codes, above = np.zeros(scaled.size, dtype=np.uint8), np.empty(scaled.size, dtype=bool)
    for limit in limits:
        np.greater(scaled, limit, out=above)
        np.add(codes, above.view(np.uint8), out=codes)
    return codes[::2] << 4 | codes[1::2]


def _encode_rest(rest: np.ndarray, codes: np.ndarray, factor: np.ndarray, limits: np.ndarray) -> None:
    """The last block, of fewer than 64 weights: its factor is never 0, and it divides instead of its inverse."""
    if not np.isfinite(rest).all():
        raise EncodeError(f"{np.count_nonzero(~np.isfinite(rest))} weights are NaN or infinite: NF4 has neither")
    factor[0] = max(np.abs(rest).max(), _SMALLEST_FACTOR)
    scaled = np.zeros(rest.size + rest.size % 2, dtype=np.float32)
    scaled[: rest.size] = rest / factor[0]
    codes[:] = _packed(scaled, limits)


def _pairs() -> np.ndarray:
    """Both values of each of the 256 bytes as one float64-sized item, so that one look-up brings two weights."""
    table = np.array(NF4_VALUES, dtype=np.float32)
    both = np.stack([table.repeat(16), np.tile(table, 16)], axis=1)
    return both.view(np.uint64).reshape(-1)
