"""Kernels of the project's own library: every method is one call, which all threads of a pool share.

The library checks sizes, types and token numbers before it touches a weight. What it refuses is looked at again here,
to say what was wrong, or because a type is not among its own: such products are given to other kernels.
"""

import ctypes
import threading
import weakref
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from quant.encode.decode import dequantize_rows
from quant.errors import LibraryError
from quant.kernels import ExpertCall, ExpertWeights, Kernels
from quant.kernels.card_work import CardBuffers, CardCalls, CardPassCall, CardWork
from quant.kernels.checks import check_experts, check_heads, check_linear, check_rows
from quant.kernels.expert_records import ExpertRecords
from quant.kernels.fused import (
    Attend,
    AttendHeads,
    ExpertRouter,
    LatentAttention,
    LayerWeights,
    Pass,
    Route,
)
from quant.kernels.native_card_pass import NativeCardPass
from quant.kernels.native_layer import MOST_TOKENS, attention_call, head_attention_call, router_call
from quant.kernels.native_pass import MOST_USED, NativePass
from quant.native_library import NativeLibrary, load_native
from quant.nf4.values import NF4
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType


class NativeKernels:
    """Products with libk2quant, and of the types that it has not with ggml, or where that is missing the reference.

    The threads belong to this object. One call at a time, others wait.
    """

    most_tokens = MOST_TOKENS

    def __init__(self, threads: int, library: NativeLibrary | None = None, pin: bool = False) -> None:
        self._library = library or load_native()
        self._own = frozenset(block for block in (*BLOCK_TYPES, NF4) if self._library.multiplies(block.ggml_id))
        self._threads = threads
        self._turn = threading.Lock()
        self._rare: Kernels | None = None
        pool = ctypes.c_void_p()
        nodes_of_the_system = 0
        self._library.call("k2quant_pool_open", threads, nodes_of_the_system, int(pin), ctypes.addressof(pool))
        self._pool = pool.value
        self._end = weakref.finalize(self, self._library.call, "k2quant_pool_close", self._pool)
        self._end.atexit = False  # another thread may be computing then, and the process ends anyway

    def serves(self, block: BlockType) -> bool:
        return block in self._own or block in BLOCK_TYPES

    def linear(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        check_linear(self, x, w)
        if w.type not in self._own:
            return self._others().linear(x, w)
        x = x.contiguous()
        tokens, cols = x.shape
        rows = w.rows
        y = torch.empty(tokens, rows)
        self.call("k2quant_linear", w.type.ggml_id, w.address, rows, cols, x.data_ptr(), tokens, y.data_ptr())
        return y

    def linear_heads(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        check_heads(self, x, w)
        if w.type not in self._own:
            return self._others().linear_heads(x, w)
        if x.stride(2) != 1:
            x = x.contiguous()
        y = torch.empty(x.shape[0], *w.shape[:2])
        strides_and_tokens = x.stride(0), x.stride(1), x.shape[0]
        self.call("k2quant_heads", w.type.ggml_id, w.address, *w.shape, x.data_ptr(), *strides_and_tokens, y.data_ptr())
        return y

    def experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        if x.dtype is torch.float32 and x.is_cpu and x.ndim == 2:
            y = torch.empty(x.shape)
            if self._own_experts(x.contiguous(), calls, y, add=False):
                return y
        check_experts(self, x, calls)
        return self._mixed_experts(x, calls)

    def rows(self, w: QuantizedTensor, ids: Tensor) -> Tensor:
        check_rows(w, ids)
        self._check_open()
        values, ids = torch.empty(len(ids), w.cols), ids.contiguous()
        where = w.address, w.rows, w.cols, ids.data_ptr(), len(ids), values.data_ptr()
        try:
            self._library.call("k2quant_decode_rows", w.type.ggml_id, *where)
        except ValueError:
            return dequantize_rows(w, ids)
        return values

    def multiplies(self, types: frozenset[BlockType]) -> bool:
        """See FusedKernels.multiplies."""
        return types <= self._own

    def dispatch(
        self,
        x: Tensor,
        records: ExpertRecords,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None,
        leave_out: bool,
    ) -> tuple[Tensor | None, int, float]:
        """See FusedKernels.dispatch. Raises ValueError, TypeError for what does not fit."""
        hidden = x.shape[-1]
        if x.shape != (1, hidden) or ids.shape != weights.shape or ids.ndim != 1:
            raise ValueError(f"x {tuple(x.shape)}, ids {tuple(ids.shape)}, weights {tuple(weights.shape)} do not fit")
        if not x.dtype == weights.dtype == torch.float32 or ids.dtype != torch.int64:
            raise TypeError(f"x and weights are float32 and ids int64, got {x.dtype}, {weights.dtype}, {ids.dtype}")
        y, x, ids, weights = torch.empty(1, hidden), x.contiguous(), ids.contiguous(), weights.contiguous()
        where = x.data_ptr(), hidden, records.address, records.count
        chosen = ids.data_ptr(), weights.data_ptr(), len(ids), int(leave_out)
        record = None if shared is None else shared.record
        outcome = (ctypes.c_int64 * 3)()
        try:
            self.call("k2quant_dispatch", *where, *chosen, record, y.data_ptr(), ctypes.addressof(outcome))
        except ValueError:  # sizes fit, so it is a type
            return None, 0, 0.0
        multiplied, missing, nanoseconds = outcome
        return None if missing else y, multiplied, nanoseconds / 1e9

    def add_experts(self, x: Tensor, calls: Sequence[ExpertCall], y: Tensor) -> bool:
        """See FusedKernels.add_experts."""
        if x.dtype is not torch.float32 or y.dtype is not torch.float32 or not y.is_contiguous() or y.shape != x.shape:
            raise ValueError(f"x {x.dtype} {tuple(x.shape)} and y {y.dtype} {tuple(y.shape)} do not fit")
        return self._own_experts(x.contiguous(), calls, y, add=True)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See FusedKernels.rms_norm."""
        x = x.contiguous()
        tokens, cols = x.shape
        if weight.shape != (cols,) or not x.dtype == weight.dtype == torch.float32:
            raise ValueError(f"x {x.dtype} {tuple(x.shape)} and weight {weight.dtype} {tuple(weight.shape)} do not fit")
        out = torch.empty(tokens, cols)
        pointers = x.data_ptr(), weight.contiguous().data_ptr()
        self.call("k2quant_rms_norm", *pointers, tokens, cols, eps, out.data_ptr())
        return out

    def prepare_attention(self, attention: LatentAttention) -> Attend | None:
        """See FusedKernels.prepare_attention."""
        return attention_call(self.call, attention) if attention.types <= self._own else None

    def prepare_head_attention(self, attention: LatentAttention) -> AttendHeads | None:
        """See FusedKernels.prepare_head_attention."""
        if {attention.k_b.type, attention.v_b.type} <= self._own:
            return head_attention_call(self.call, attention)
        return None

    def prepare_router(self, router: ExpertRouter) -> Route:
        """See FusedKernels.prepare_router."""
        return router_call(self.call, router)

    def prepare_pass(self, layers: Sequence[LayerWeights]) -> Pass | None:
        """See FusedKernels.prepare_pass."""
        types = frozenset[BlockType]().union(*(layer.types for layer in layers))
        if not types <= self._own or any(layer.router and layer.router.used > MOST_USED for layer in layers):
            return None
        return NativePass(self.call, layers)

    def prepare_card_pass(self, calls: CardCalls, buffers: CardBuffers, works: Sequence[CardWork]) -> CardPassCall:
        """See FusedKernels.prepare_card_pass."""
        return NativeCardPass(self.call, calls, buffers, works)

    def close(self) -> None:
        with self._turn:
            self._end()
            if self._rare is not None:
                self._rare.close()

    def call(self, name: str, *arguments: Any) -> None:
        """The C function `name` with the pool and `arguments`. ValueError for what it refuses."""
        with self._turn:
            self._check_open()
            self._library.call(name, self._pool, *arguments)

    def _own_experts(self, x: Tensor, calls: Sequence[ExpertCall], y: Tensor, add: bool) -> bool:
        """All experts in one call, to `y` or added to it; False when the library refuses it."""
        tokens, hidden = x.shape
        if not calls:
            self._check_open()
            if not add:
                y.zero_()
            return True
        ids = torch.cat([call.tokens for call in calls])
        scales = torch.cat([call.scales for call in calls])
        if not (ids.is_cpu and scales.is_cpu):
            return False
        records = b"".join([call.weights.record for call in calls])
        counts = array("q", [call.tokens.numel() for call in calls]).tobytes()
        pointers = ids.data_ptr(), scales.data_ptr(), y.data_ptr()
        try:
            self.call("k2quant_experts", x.data_ptr(), tokens, hidden, records, len(calls), counts, *pointers, int(add))
        except ValueError:
            return False
        return True

    def _mixed_experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        """Experts of which some have matrices that the library does not multiply: those are given away whole."""
        total = torch.zeros(x.shape)
        for run, is_own in self._runs(calls):
            if not is_own:
                for call in run:  # one by one: a sum of some that is added later has other bits
                    tokens = torch.arange(call.tokens.numel())
                    part = self._others().experts(x[call.tokens], [ExpertCall(call.weights, tokens, call.scales)])
                    total.index_add_(0, call.tokens, part)
            elif not self._own_experts(x.contiguous(), run, total, add=True):
                raise ValueError(f"x {tuple(x.shape)} and {len(run)} experts do not fit together")
        return total

    def _runs(self, calls: Sequence[ExpertCall]) -> Iterator[tuple[list[ExpertCall], bool]]:
        """Neighbouring calls of one kind, with whether all their types are the library's: the sum keeps its order."""

        def is_own(call: ExpertCall) -> bool:
            weights = call.weights
            return {weights.gate.type, weights.up.type, weights.down.type} <= self._own

        return ((list(run), kind) for kind, run in groupby(calls, is_own))

    def _others(self) -> Kernels:
        """Kernels for the other types, made when the first of them comes."""
        with self._turn:
            self._check_open()
            if self._rare is None:
                self._rare = _kernels_of_every_type(self._threads)
            return self._rare

    def _check_open(self) -> None:
        if not self._end.alive:
            raise RuntimeError("these kernels are closed")


def _kernels_of_every_type(threads: int) -> Kernels:
    from quant.kernels.ggml import GgmlKernels
    from quant.kernels.reference import ReferenceKernels

    try:
        return GgmlKernels(threads)
    except LibraryError:
        return ReferenceKernels()
