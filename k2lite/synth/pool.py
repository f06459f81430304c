"""Random weights by the gigabyte: a little is drawn and encoded, and everything is cut from that.

A ring of bytes is read round and round from a place that depends on the tensor's name. Its length is prime in the
smallest units of the format, so no two rows of a tensor begin at the same place, whatever the length of the rows.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType

import numpy as np
import torch

from quant.checkpoint.int4 import GROUP
from quant.encode.encode import encode
from quant.ggml_library import load_ggml
from quant.types import block_type

RING_BYTES = 48 << 20
_DRAWN_WEIGHTS = 4 << 20  # enough that the mixture below looks like fresh weights, quick for the common encoders
_CHUNK_WEIGHTS = 1 << 20
# Encoders that search a codebook take seconds for a million weights.
_DRAWN_BY_TYPE = MappingProxyType({"IQ4_NL": 1 << 20, "IQ4_XS": 1 << 20})
_DRAWN_BY_CODEBOOK = 1 << 16
_MIXED_WEIGHTS = 256  # what is drawn is shuffled in pieces of this length

_FP8_LARGEST = 448.0
# Of the 16384 weights of a block the largest is about 4.1 standard deviations out, and gets the largest code.
FP8_CODE_STD = _FP8_LARGEST / 4.2
_FP8_SCALE_SPREAD = 0.1
_INT4_LEVELS = 7


Encode = Callable[[np.ndarray, float], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Format:
    """How weights become bytes. `unit_weights` share `unit_bytes[plane]` in every plane.

    `encode` takes float32 [pieces, 256] of standard deviation 1 and the wanted one, and returns uint8 for each plane.
    `drawn` is the number of weights worth drawing.
    """

    unit_weights: int
    unit_bytes: tuple[int, ...]
    encode: Encode
    drawn: int = _DRAWN_WEIGHTS


@dataclass(frozen=True)
class PoolKey:
    """Weights of one format and standard deviation. `format` is a block type, "FP8", "FP8_SCALE" or "INT4"."""

    format: str
    std: float


class Ring:
    """Bytes without beginning and end."""

    def __init__(self, data: np.ndarray, unit_bytes: int) -> None:
        """`data` is uint8, a whole number of units of `unit_bytes`."""
        self._data = data
        self._unit_bytes = unit_bytes

    def read(self, start: int, nbytes: int) -> Iterator[np.ndarray]:
        """`nbytes` from unit `start` on (any number), in views of the ring."""
        position = start % (self._data.size // self._unit_bytes) * self._unit_bytes
        while nbytes:
            count = min(nbytes, self._data.size - position)
            yield self._data[position : position + count]
            position, nbytes = 0, nbytes - count


class Pools:
    """Makes the rings of all `needs` (key -> weights in all) in threads, in that order. A context manager.

    Depends on nothing but `seed` and `needs`.
    """

    def __init__(self, seed: int, needs: Mapping[PoolKey, int], threads: int) -> None:
        self._seed = seed
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="synth")
        self._rings: dict[PoolKey, Future[tuple[Ring, ...]]] = {
            key: self._executor.submit(make_rings, key, weights, seed) for key, weights in needs.items()
        }

    def read(self, key: PoolKey, plane: int, label: str, weights: int) -> Iterator[np.ndarray]:
        """Bytes of `weights` weights of plane `plane`. All planes of one `label` belong together."""
        unit_weights, unit_bytes = format_named(key.format).unit_weights, format_named(key.format).unit_bytes[plane]
        ring = self._rings[key].result()[plane]
        return ring.read(label_number(self._seed, label), weights // unit_weights * unit_bytes)

    def __enter__(self) -> "Pools":
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(cancel_futures=True)


def label_number(seed: int, label: str) -> int:
    """A number that depends on seed and label alone, as good as drawn."""
    return int.from_bytes(blake2b(f"{seed} {label}".encode(), digest_size=8).digest(), "little")


def make_rings(key: PoolKey, weights: int, seed: int) -> tuple[Ring, ...]:
    """One ring for each plane of the format, long enough for `weights` weights or `RING_BYTES`."""
    form = format_named(key.format)
    most_units = RING_BYTES // max(form.unit_bytes)
    units = next_prime(min(most_units, -(-weights // form.unit_weights)))
    pieces = -(-units * form.unit_weights // _MIXED_WEIGHTS)
    drawn = min(pieces, form.drawn // _MIXED_WEIGHTS)
    planes = _drawn(key, form, drawn, seed)
    if drawn < pieces:
        choice = _generator(key, seed, -1).integers(drawn, size=pieces)
        planes = tuple(plane[choice] for plane in planes)
    # a copy where pieces were cut off would double the memory, a view does not
    return tuple(
        Ring(plane.reshape(-1)[: units * size], size) for plane, size in zip(planes, form.unit_bytes, strict=True)
    )


def _drawn(key: PoolKey, form: Format, pieces: int, seed: int) -> tuple[np.ndarray, ...]:
    """`pieces` encoded pieces of 256 weights for each plane, [pieces, bytes]."""
    step = _CHUNK_WEIGHTS // _MIXED_WEIGHTS
    chunks = []
    for start in range(0, pieces, step):
        count = min(step, pieces - start)
        values = _generator(key, seed, start).standard_normal((count, _MIXED_WEIGHTS), dtype=np.float32)
        chunks.append([plane.reshape(count, -1) for plane in form.encode(values, key.std)])
    return tuple(np.concatenate(planes) for planes in zip(*chunks, strict=True))


def _generator(key: PoolKey, seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"{key.format} {key.std!r}".encode()), stream + 1])


def next_prime(number: int) -> int:
    """The smallest prime that is not below `number`."""
    candidate = max(number, 2)
    while any(candidate % divisor == 0 for divisor in range(2, math.isqrt(candidate) + 1)):
        candidate += 1
    return candidate


def format_named(name: str) -> Format:
    """The format of a PoolKey. Raises UnsupportedError for a name that is none."""
    if name in _OWN_FORMATS:
        return _OWN_FORMATS[name]
    block = block_type(name)
    drawn = _DRAWN_BY_TYPE.get(name, _DRAWN_BY_CODEBOOK if name.startswith("IQ") else _DRAWN_WEIGHTS)
    return Format(block.block_weights, (block.block_bytes,), _block_encoder(name), drawn)


def _block_encoder(name: str) -> Encode:
    def encode_blocks(values: np.ndarray, std: float) -> tuple[np.ndarray, ...]:
        block = block_type(name)
        needs_importance = load_ggml().requires_importance(block)
        importance = torch.ones(values.shape[1]) if needs_importance else None
        return (encode(torch.from_numpy(values) * std, block, importance),)

    return encode_blocks


def _encode_fp8(values: np.ndarray, std: float) -> tuple[np.ndarray, ...]:
    """Codes alone, the same for any `std`: that is the scales' business."""
    codes = (torch.from_numpy(values) * FP8_CODE_STD).clamp(-_FP8_LARGEST, _FP8_LARGEST)
    return (codes.to(torch.float8_e4m3fn).view(torch.uint8).numpy(),)


def _encode_fp8_scale(values: np.ndarray, std: float) -> tuple[np.ndarray, ...]:
    scales = np.exp(values * np.float32(_FP8_SCALE_SPREAD)) * np.float32(std / FP8_CODE_STD)
    return (scales.view(np.uint8),)


def _encode_int4(values: np.ndarray, std: float) -> tuple[np.ndarray, ...]:
    """Eight levels from -7 to 7 in a word, the lowest nibble first, and a BF16 scale for each 32 weights."""
    groups = torch.from_numpy(values).view(-1, GROUP) * std
    scales = (groups.abs().amax(-1) / _INT4_LEVELS).to(torch.bfloat16)
    levels = (groups / scales.float().unsqueeze(-1)).round().clamp(-_INT4_LEVELS, _INT4_LEVELS)
    nibbles = (levels + 8).to(torch.uint8).view(-1, 2)
    words = nibbles[:, 0] | nibbles[:, 1] << 4
    return words.numpy(), scales.view(torch.uint8).numpy()


_OWN_FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "FP8": Format(1, (1,), _encode_fp8),
        "FP8_SCALE": Format(1, (4,), _encode_fp8_scale),
        "INT4": Format(GROUP, (GROUP // 2, 2), _encode_int4),
    }
)
