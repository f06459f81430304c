"""Small importance matrices of both forms."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from quant.imatrix.imatrix_file import ImatrixHeader, Statistics, write_statistics

GATE, UP, FUSED, DOWN = (f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "up", "gate_up", "down"))
QUERY, KEYS = "blk.1.attn_q.weight", "blk.1.attn_k_b.weight"
HEADER = ImatrixHeader(("wiki.txt",), 3, 512)


def random_statistics(groups: int, cols: int, counts: list[float], seed: int = 1) -> Statistics:
    sums = np.random.default_rng(seed).random((groups, cols), dtype=np.float32) * 8
    return Statistics(sums * (np.array(counts, np.float32)[:, None] > 0), np.array(counts, np.float32))


def sample() -> dict[str, Statistics]:
    """Three experts, of which the second was never seen, a plain matrix, and two heads."""
    return {
        KEYS: random_statistics(1, 2 * 4, [6]),
        QUERY: random_statistics(1, 8, [6]),
        DOWN: random_statistics(3, 4, [2, 0, 4]),
        GATE: random_statistics(3, 8, [2, 0, 4]),
    }


def write_gguf(path: Path, statistics: Mapping[str, Statistics], header: ImatrixHeader = HEADER) -> Path:
    shapes = {name: (entry.sums.shape[0], entry.sums.shape[1]) for name, entry in statistics.items()}
    write_statistics(path, header, shapes, statistics.items())
    return path


def legacy_bytes(
    entries: Mapping[str, tuple[int, list[float]]], trailer: tuple[int, str] | None = (3, "t.txt")
) -> bytes:
    """The .dat form: (divisor, numbers) by weight, then the chunks and the text's name."""
    data = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        data += struct.pack(f"<i{len(name)}sii{len(values)}f", len(name), name.encode(), calls, len(values), *values)
    if trailer is not None:
        data += struct.pack(f"<ii{len(trailer[1])}s", trailer[0], len(trailer[1]), trailer[1].encode())
    return data
