"""Pools and jobs of the native library, called directly."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from quant.kernels import ExpertCall
from quant.native_library import ISAS, load_native
from quant.tensor import QuantizedTensor


@contextmanager
def pool(threads: int, nodes: int = 1, pin: int = 0) -> Iterator[int]:
    """The address of an open pool."""
    opened, library = ctypes.c_void_p(), load_native()
    library.call("k2quant_pool_open", threads, nodes, pin, ctypes.addressof(opened))
    assert opened.value is not None
    try:
        yield opened.value
    finally:
        library.call("k2quant_pool_close", opened.value)


def threads_of(opened: int) -> int:
    return load_native()._functions["k2quant_pool_threads"](ISAS["portable"], opened)


def linear(opened: int, x: Tensor, w: QuantizedTensor) -> Tensor:
    y = torch.full((len(x), w.rows), torch.nan)
    arguments = (w.type.ggml_id, w.address, w.rows, w.cols, x.data_ptr(), len(x), y.data_ptr())
    load_native().call("k2quant_linear", opened, *arguments)
    return y


def heads(opened: int, x: Tensor, w: QuantizedTensor) -> Tensor:
    y = torch.full((len(x), *w.shape[:2]), torch.nan)
    arguments = (w.type.ggml_id, w.address, *w.shape, x.data_ptr(), x.stride(0), x.stride(1), len(x), y.data_ptr())
    load_native().call("k2quant_heads", opened, *arguments)
    return y


def experts(opened: int, x: Tensor, calls: Sequence[ExpertCall], onto: Tensor | None = None) -> Tensor:
    """The sum of the experts' results, added to a copy of `onto` if that is given."""
    y = torch.full(x.shape, torch.nan) if onto is None else onto.clone()
    counts = torch.tensor([len(call.tokens) for call in calls], dtype=torch.int64)
    ids = torch.cat([torch.empty(0, dtype=torch.int64), *(call.tokens for call in calls)])
    scales = torch.cat([torch.empty(0), *(call.scales for call in calls)])
    records = b"".join(call.weights.record for call in calls)
    lists = (counts.data_ptr(), ids.data_ptr(), scales.data_ptr())
    arguments = (x.data_ptr(), *x.shape, records, len(calls), *lists, y.data_ptr(), onto is not None)
    load_native().call("k2quant_experts", opened, *arguments)
    return y
