"""Facts about the host that need no measuring, and the two speeds of it that do: reading memory, and arithmetic."""

import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from offload.free_memory import group_limits
from offload.roof import ROOF_BYTES, ram_read_bandwidth, roof_memory
from quant.native_library import built_native

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60
_MOST_SHARE_OF_FREE = 1 / 8
_ROWS, _COLS, _TOKENS = 2048, 2048, 256
_DRAWN_ROWS = 64  # encoded; the matrix repeats them, which no kernel notices


@dataclass(frozen=True)
class HostMemory:
    """`limit_bytes` is what the control group allows, None without a limit; `total_bytes` is what may be used in all.

    `available_bytes` is what is free now. `locked_bytes` is how much a process may keep from being swapped out, None
    for any amount.
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None
    locked_bytes: int | None


def host_memory(cgroup: Path = _CGROUP, own: Path = _OWN_CGROUP) -> HostMemory:
    """What this process may use of the machine's memory."""
    memory, limit = psutil.virtual_memory(), memory_limit(cgroup, own)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    total = memory.total if limit is None else min(memory.total, limit)
    return HostMemory(
        total_bytes=total,
        available_bytes=min(memory.available, total),
        limit_bytes=limit,
        locked_bytes=None if locked == resource.RLIM_INFINITY else locked,
    )


def memory_limit(cgroup: Path = _CGROUP, own: Path = _OWN_CGROUP) -> int | None:
    """The smallest memory limit of the control groups that this process is in, of version 1 or 2; None without one."""
    least = min((group.limit_bytes for group in group_limits(own, cgroup)), default=_UNLIMITED)
    return least if least < _UNLIMITED else None


def usable_cores() -> int:
    """Physical cores that this process may run on: two threads on one core gain nothing where memory is the limit."""
    physical = psutil.cpu_count(logical=False) or 1
    return max(1, min(physical, len(psutil.Process().cpu_affinity())))


def probe_ram(threads: int, seconds: float = 0.5) -> float:
    """Bytes per second that `threads` threads read together. Takes up to 1 GiB for the time."""
    nbytes = min(ROOF_BYTES, int(psutil.virtual_memory().available * _MOST_SHARE_OF_FREE))
    return ram_read_bandwidth(threads, roof_memory(nbytes), passes=100, seconds=seconds)


def probe_arithmetic(threads: int, seconds: float = 0.3) -> float:
    """Operations per second (two for each weight and token) of products of many tokens with Q4_K rows: what prefill
    is bound by."""
    import torch

    from quant.encode.encode import encode
    from quant.kernels import make_kernels
    from quant.tensor import QuantizedTensor
    from quant.types import block_type

    kind = block_type("Q4_K")
    rows = encode(torch.randn(_DRAWN_ROWS, _COLS), kind)
    weights = QuantizedTensor(kind, (_ROWS, _COLS), np.tile(rows, _ROWS // _DRAWN_ROWS))
    x = torch.randn(_TOKENS, _COLS)
    kernels = make_kernels("reference" if built_native() is None else "native", threads)
    try:
        best_s, end = math.inf, time.perf_counter() + seconds
        while True:
            started = time.perf_counter()
            kernels.linear(x, weights)
            ended = time.perf_counter()
            best_s = min(best_s, ended - started)
            if ended >= end:
                return 2 * _ROWS * _COLS * _TOKENS / best_s
    finally:
        kernels.close()
