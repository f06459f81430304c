"""One token through many layers in one call of libk2quant: the structs, filled once, and the call."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quant.kernels.fused import LayerWeights, PassNotes, Waiting
from quant.kernels.native_layer import (
    PoolCall,
    RouterStruct,
    attention_struct,
    check_cache,
    floats_address,
    rotation_tables,
    router_struct,
)

MOST_USED = 64  # MOST_USED of dispatch.h: experts of a token


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
        self._scratch = torch.empty(3, self._hidden)
        self._ids = torch.zeros(len(layers), max(*self._used, 1), dtype=torch.int64)
        self._weights = torch.empty(1, self._ids.shape[1])
        self._reached = np.zeros(1, np.int64)
        self._times_ns = np.zeros((len(layers), 3), np.int64)

    def __call__(
        self,
        x: Tensor,
        caches: Sequence[Tensor],
        position: int,
        rotations: tuple[Tensor, Tensor],
        first: int = 0,
        guess: int = 0,
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
        out = self._ids.data_ptr(), self._weights.data_ptr(), self._ids.shape[1]
        notes = self._times_ns.ctypes.data, self._reached.ctypes.data
        structs = self._structs, len(self._layers), first
        scratch = self._scratch.data_ptr()
        self._call("k2quant_pass", *structs, x.data_ptr(), self._hidden, *where, scratch, *out, guess, *notes)
        return self._notes(first)

    def _notes(self, first: int) -> PassNotes:
        reached = int(self._reached[0])
        used = self._used[first:reached]
        experts = [row[:count] for row, count in zip(self._ids[first:reached].tolist(), used, strict=True)]
        waiting = None
        if reached < len(self._layers):
            count = self._used[reached]
            ids = self._ids[reached : reached + 1, :count].clone()
            waiting = Waiting(self._scratch[:1].clone(), ids, self._weights[:, :count].clone())
        return PassNotes(first, experts, (self._times_ns[first : reached + 1] / 1e9).tolist(), waiting)


def _layer_struct(layer: LayerWeights, kept: list[object]) -> _Layer:
    attention = attention_struct(layer.attention)
    router: RouterStruct | None = None if layer.router is None else router_struct(layer.router)
    shared = None if layer.shared is None else np.frombuffer(layer.shared.record, np.uint8).copy()
    kept += [attention, router, layer.experts, shared]
    return _Layer(
        attention=ctypes.addressof(attention),
        router=None if router is None else ctypes.addressof(router),
        experts=layer.experts.address,
        shared=None if shared is None else shared.ctypes.data,
        norm=None if layer.norm is None else floats_address(layer.norm, layer.attention.output.rows),
        eps=layer.eps,
    )
