"""How much memory of a card some work has at once, counted without one: tensors that have no data, only sizes.

What torch's own kernels take inside a call is not seen; Triton's are not launched, and take nothing themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from k2lite.card_crossing import ChunkCrossing
from quant.kernels.card import CardTensor

CARD = torch.device("meta")


class CountedBytes(TorchDispatchMode):
    """Bytes of all storages that were made in this block and are still there: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self._live, self._on_host = dict[int, tuple[StorageWeakRef, int]](), False
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        before = {tensor.untyped_storage()._cdata for tensor in given}
        found = func(*args, **(kwargs or {}))
        if self._on_host:
            return found
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in before:
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, self.now)
        return found

    @property
    def now(self) -> int:
        """Bytes of what is still there."""
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        return sum(nbytes for _, nbytes in self._live.values())

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """What is made in this block is not the card's."""
        self._on_host = True
        yield
        self._on_host = False


class HostMemory:
    """torch for whoever makes room in the host's memory."""

    def __init__(self, counted: CountedBytes) -> None:
        self._counted = counted

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    def empty(self, *shape: int, pin_memory: bool) -> Tensor:
        with self._counted.on_host():
            return torch.empty(*shape, device=CARD)


class Launches:
    """Stands for a Triton kernel."""

    def __getitem__(self, grid: object) -> Any:
        return lambda *arguments, **constants: None


class Event:
    """Stands for one of a stream that is not there."""

    def record(self, stream: object = None) -> None:
        """Nothing was queued."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountedBytes:
    """Nothing is launched, and torch finds no fault with a card that is not there."""
    pytest.importorskip("triton")
    monkeypatch.setattr("quant.kernels.triton.expand._launch", lambda data, starts, out, block, aligned: out)
    for name in ("gate_up_matrix_kernel", "down_matrix_kernel", "add_chunk_kernel"):
        monkeypatch.setattr(f"quant.kernels.triton.grouped.{name}", Launches())
    monkeypatch.setattr(CardTensor, "__post_init__", lambda tensor: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: tensor.device == CARD), raising=False)
    counted, arrived = CountedBytes(), ChunkCrossing.arrived

    def arrived_on_host(crossing: ChunkCrossing) -> tuple[Tensor, Tensor, Tensor]:
        with counted.on_host():
            return arrived(crossing)

    monkeypatch.setattr("k2lite.card_crossing.torch", HostMemory(counted))
    monkeypatch.setattr(ChunkCrossing, "arrived", arrived_on_host)
    return counted
