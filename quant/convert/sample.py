"""How long a conversion will take: a little of each type is read and encoded, and the rest is a sum.

Reading and encoding are all that is counted: a drive that writes slower than this machine encodes takes longer.
"""

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.convert.job_types import ConvertJob, PlannedTensor

# Encoding grows from a few rows until a thread was busy for so long: the slowest types do 0.1 M weights/s.
_FIRST_WEIGHTS = 1 << 15
_LONG_ENOUGH_S = 0.1


@dataclass(frozen=True)
class Estimate:
    """`seconds` for all `weights`. Neither verification nor a slow drive is in it."""

    seconds: float
    weights: int

    @property
    def weights_per_s(self) -> float:
        """The mean rate."""
        return self.weights / max(self.seconds, 1e-9)


def estimate(job: ConvertJob, threads: int | None = None) -> Estimate:
    """Measure one part for every way of writing in `job`. Takes a second or so. Raises K2Error as reading does."""
    threads = threads or len(os.sched_getaffinity(0))
    seconds = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for tensors in _by_codec(job.tensors):
            sample = max(tensors, key=lambda tensor: tensor.source.weights)
            weights = sum(tensor.source.weights for tensor in tensors)
            seconds += weights * _seconds_per_weight(sample, pool, threads)
    return Estimate(seconds, job.total_weights)


def _by_codec(tensors: Iterable[PlannedTensor]) -> list[list[PlannedTensor]]:
    groups: dict[tuple[str, bool], list[PlannedTensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.codec.name, _is_exact(tensor)), []).append(tensor)
    return list(groups.values())


def _is_exact(tensor: PlannedTensor) -> bool:
    return tensor.codec.name in tensor.source.exact


def _seconds_per_weight(tensor: PlannedTensor, pool: ThreadPoolExecutor, threads: int) -> float:
    """Wall time for a weight when all threads read and encode."""
    started = time.perf_counter()
    if _is_exact(tensor):
        tensor.source.exact[tensor.codec.name](0)
        return (time.perf_counter() - started) / (len(tensor.source.rows_of(0)) * tensor.source.cols) / threads
    rows = tensor.source.read_rows(0)
    reading = (time.perf_counter() - started) / rows.numel()
    return reading / threads + _encoding(tensor, rows, pool, threads)


def _encoding(tensor: PlannedTensor, rows: Tensor, pool: ThreadPoolExecutor, threads: int) -> float:
    """Wall time for a weight when all threads encode."""
    importance = torch.ones(rows.shape[1])
    count = len(rows) if not tensor.codec.splits_rows else max(1, _FIRST_WEIGHTS // rows.shape[1])
    while True:
        count = min(count, len(rows))
        share = rows[:count]
        started = time.perf_counter()
        for done in [pool.submit(tensor.codec.encode, share, importance) for _ in range(threads)]:
            done.result()
        elapsed = time.perf_counter() - started
        if elapsed >= _LONG_ENOUGH_S or count == len(rows):
            return elapsed / (share.numel() * threads)
        count *= 4
