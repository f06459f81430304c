"""One token through many layers in one call of libk2quant: the structs, filled once, and the call."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quant.kernels.fused import ExpertTable, LayerWeights, PassNotes
from quant.kernels.native_layer import (
    PoolCall,
    RouterStruct,
    attention_struct,
    check_cache,
    floats_address,
    rotation_tables,
    router_struct,
)

MOST_USED = 64  # MOST_USED of pass.cpp: experts of a token

# k2quant_expert: three addresses, ff, hidden, three types and four bytes of nothing.
_RECORD_WORDS, _RECORD_BYTES = 3, 56


class _Layer(ctypes.Structure):
    """k2quant_layer."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("attention", "router", "experts", "shared", "norm")),
        *((name, ctypes.c_float) for name in ("eps", "unused")),
    ]


class NativePass:
    """See FusedKernels.prepare_pass. All types must be served, and no token goes to more than MOST_USED experts."""

    def __init__(self, call: PoolCall, layers: Sequence[LayerWeights]) -> None:
        self._call, self._layers = call, tuple(layers)
        self._hidden, self._rope_dim = layers[0].attention.output.rows, layers[0].attention.rope_dim
        self._used = [0 if layer.router is None else layer.router.used for layer in layers]
        self._kept: list[object] = []  # what the structs have addresses of
        self._structs = (_Layer * len(layers))(*(_layer_struct(layer, self._kept) for layer in layers))
        self._caches = (ctypes.c_void_p * len(layers))()
        self._scratch = torch.empty(2, self._hidden)
        self._ids = np.zeros((len(layers), max(*self._used, 1)), np.int64)
        self._times_ns = np.zeros((len(layers), 3), np.int64)

    def __call__(
        self, x: Tensor, caches: Sequence[Tensor], position: int, rotations: tuple[Tensor, Tensor]
    ) -> PassNotes:
        """See Pass. Raises ValueError for what does not fit."""
        if x.shape != (1, self._hidden) or x.dtype != torch.float32 or not x.is_contiguous() or not x.is_cpu:
            raise ValueError(
                f"x is {x.dtype} {tuple(x.shape)}: expected one token of {self._hidden} float32 values in RAM"
            )
        for index, (layer, cache) in enumerate(zip(self._layers, caches, strict=True)):
            check_cache(cache, layer.attention.kv_a.rows)
            self._caches[index] = cache.data_ptr()
        capacity = min(len(cache) for cache in caches)
        cosines, sines = rotation_tables(rotations, 1, self._rope_dim)
        where = self._caches, capacity, position, cosines.data_ptr(), sines.data_ptr()
        out = self._scratch.data_ptr(), self._ids.ctypes.data, self._ids.shape[1], self._times_ns.ctypes.data
        self._call("k2quant_pass", self._structs, len(self._layers), x.data_ptr(), self._hidden, *where, *out)
        experts = [row[:used] for row, used in zip(self._ids.tolist(), self._used, strict=True)]
        return PassNotes(experts, (self._times_ns / 1e9).tolist())


def _layer_struct(layer: LayerWeights, kept: list[object]) -> _Layer:
    attention, experts = attention_struct(layer.attention), _records(layer.experts)
    router: RouterStruct | None = None if layer.router is None else router_struct(layer.router)
    shared = None if layer.shared is None else np.frombuffer(layer.shared.record, np.uint8).copy()
    kept += [attention, router, experts, shared]
    return _Layer(
        attention=ctypes.addressof(attention),
        router=None if router is None else ctypes.addressof(router),
        experts=experts.ctypes.data,
        shared=None if shared is None else shared.ctypes.data,
        norm=None if layer.norm is None else floats_address(layer.norm, layer.attention.output.rows),
        eps=layer.eps,
    )


def _records(table: ExpertTable) -> np.ndarray:
    """A k2quant_expert for each expert of the table, [experts, 7] words."""
    record = np.frombuffer(table.first.record, np.uint64)
    assert record.nbytes == _RECORD_BYTES
    records = np.tile(record, (table.experts, 1))
    steps = np.array(table.step_bytes, np.uint64)
    records[:, :_RECORD_WORDS] += np.arange(table.experts, dtype=np.uint64)[:, None] * steps
    return records
