"""Memory for matrices that are filled once, handed on and forgotten.

A fresh block of the size of an expert's matrix costs more in page faults than decoding its weights does. Pages of
2 MiB, where the system has them, make that a third.
"""

import contextlib
import math
import mmap

import torch
from torch import Tensor

# Below, the allocator reuses memory that it has.
_SMALL_BYTES = 4 << 20


def empty_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor whose values nobody has set. Its memory goes back to the system with the last view."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _SMALL_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages: slower, and nothing else
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
