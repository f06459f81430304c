"""One token through layers on a card in one call of libk2quant: the structs, filled once, and the call."""

import ctypes
from collections.abc import Sequence

import torch

from quant.kernels.card_work import CardBuffers, CardCalls, CardNotes, CardWork
from quant.kernels.expert_records import ExpertRecords
from quant.kernels.native_layer import PoolCall
from quant.kernels.native_pass import MOST_USED

_POINTER = ctypes.c_void_p


class _Card(ctypes.Structure):
    """k2quant_card."""

    _fields_ = [
        *((name, _POINTER) for name in ("launch", "copy", "record", "wait", "stream", "event")),
        *(("packed", ctypes.c_uint64), ("packed_here", _POINTER), ("sum", ctypes.c_uint64), ("sum_here", _POINTER)),
    ]


class _Layer(ctypes.Structure):
    """k2quant_card_layer."""

    _fields_ = [
        *((name, _POINTER) for name in ("in_front", "beside", "experts")),
        *(("count", ctypes.c_int64), ("leave_out", ctypes.c_int32), ("unused", ctypes.c_int32)),
    ]


class NativeCardPass:
    """See FusedKernels.prepare_card_pass."""

    def __init__(self, call: PoolCall, calls: CardCalls, buffers: CardBuffers, works: Sequence[CardWork]) -> None:
        self._call, self._buffers = call, buffers
        self._hidden = buffers.sum_here.numel()
        self._used = (buffers.packed_here.numel() - 2 * self._hidden) // 2
        if self._used > MOST_USED:
            raise ValueError(f"a token goes to {self._used} experts: at most {MOST_USED} are taken")
        for tensor in (buffers.packed, buffers.packed_here, buffers.sum, buffers.sum_here):
            if tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise ValueError(f"a buffer is {tensor.dtype}: expected float32 in one piece")
        self._kept = calls, works  # what the structs have addresses of
        self._card = _Card(
            *(calls.launch, calls.copy, calls.record, calls.wait, buffers.stream, buffers.event),
            *(buffers.packed.data_ptr(), buffers.packed_here.data_ptr()),
            *(buffers.sum.data_ptr(), buffers.sum_here.data_ptr()),
        )
        self._layers = (_Layer * len(works))(*(_layer(work) for work in works))
        self._routed = [work.records is not None for work in works]
        self._ids = torch.zeros(len(works), self._used, dtype=torch.int64)
        self._outcomes = torch.zeros(len(works), 3, dtype=torch.int64)
        self._reached = torch.zeros(2, dtype=torch.int64)

    def __call__(self, first: int) -> CardNotes:
        """See CardPass."""
        where = ctypes.byref(self._card), self._layers, len(self._layers), first, self._hidden, self._used
        out = self._ids.data_ptr(), self._outcomes.data_ptr(), self._reached.data_ptr()
        self._call("k2quant_card_pass", *where, *out)
        reached, answer = self._reached.tolist()
        ids = self._ids[first:reached].tolist()
        outcomes = self._outcomes[first:reached].tolist()
        return CardNotes(
            experts=[row if routed else [] for row, routed in zip(ids, self._routed[first:reached], strict=True)],
            in_ram=[outcome[0] for outcome in outcomes],
            seconds=[outcome[2] / 1e9 for outcome in outcomes],
            waiting=self._ids[reached : reached + 1].clone() if reached < len(self._routed) else None,
            answer=answer,
        )


def _layer(work: CardWork) -> _Layer:
    records: ExpertRecords | None = work.records
    experts, count = (None, 0) if records is None else (records.address, records.count)
    return _Layer(work.in_front, work.beside, experts, count, int(work.leave_out), 0)

