"""Experts in RAM: in slots that a drive fills, or mapped where all of them lie. One thread owns it.

Both look the same to who multiplies: `request` an expert, `collect` what has come, take its `weights`.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from offload.arena import Arena
from offload.multiply import ExpertBytes
from offload.reader import DriveReader, Read, ReaderState, Urgency
from offload.residency import Residency
from offload.slabs import SlabMap
from offload.slots import ExpertKey, Slot
from quant.errors import StoreError
from quant.kernels import ExpertWeights
from quant.tensor import QuantizedTensor


class LayerExperts(Protocol):
    """The experts of one layer in memory, each found by its number."""

    def expert(self, index: int) -> ExpertWeights:
        """The three matrices of an expert where they lie, without a copy."""

    @property
    def experts(self) -> int:
        """How many there are."""

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert, all three matrices."""

    @property
    def tensors(self) -> tuple[QuantizedTensor, ...]:
        """What they are parts of."""


class RamTier(Protocol):
    """Where the CPU finds experts."""

    def weights(self, key: ExpertKey) -> ExpertWeights:
        """The matrices of an expert whose place is RAM. Valid while it stays there: while it is pinned."""

    def slot_bytes(self, key: ExpertKey) -> Callable[[], np.ndarray]:
        """The bytes of an expert as a slot holds them, for another thread that copies them while it is pinned.

        What that returns is the slot itself, or a copy that is valid until the same thread asks again.
        """

    def content(self, key: ExpertKey) -> Callable[[], ExpertBytes]:
        """The same where the parts may lie apart: no copy."""

    def request(
        self, key: ExpertKey, urgency: Urgency, only_over: float | None = None, instead_of: ExpertKey | None = None
    ) -> bool:
        """Have an expert read that is not here, or make its read more urgent. False when there is no slot for it."""

    def lend(self, nbytes: int) -> None:
        """Give so much memory back to the system, and take again what was given before: 0 takes back all.

        One slot of each size stays, whatever is asked for.
        """

    @property
    def lent_bytes(self) -> int:
        """What was given back."""

    @property
    def promised_bytes(self) -> int:
        """What the system has still to give when all slots are used."""

    def collect(self, timeout_s: float | None = 0.0) -> list[ExpertKey]:
        """Experts that are here since the last call. Waits for one. Raises StoreError when a demanded one failed."""

    @property
    def open_reads(self) -> int:
        """Experts that are on their way."""

    def is_under_way(self, key: ExpertKey) -> bool:
        """Whether an expert is on its way."""

    def cancel(self) -> None:
        """Give up whatever is not here yet, and wait for what cannot be given up."""

    def reader_state(self) -> ReaderState | None:
        """What the drive has done. None where there is none."""

    def close(self) -> None:
        """End the reads. Safe to call twice."""


class MappedTier:
    """All experts of a mapped file: nothing ever comes or goes."""

    def __init__(self, layers: Mapping[int, LayerExperts], slabs: SlabMap | None = None) -> None:
        """`slabs` are needed only to copy experts to cards."""
        self._layers, self._slabs = layers, slabs
        self._scratch = threading.local()
        self._experts: dict[ExpertKey, ExpertWeights] = {}

    def weights(self, key: ExpertKey) -> ExpertWeights:
        """See RamTier.weights."""
        expert = self._experts.get(key)
        if expert is None:
            expert = self._experts[key] = self._layers[key[0]].expert(key[1])
        return expert

    def slot_bytes(self, key: ExpertKey) -> Callable[[], np.ndarray]:
        """See RamTier.slot_bytes: a copy, since in the file an expert's parts lie apart."""
        assert self._slabs is not None, "cards need to know how experts lie in slots"
        weights, slabs = self.weights(key), self._slabs.layers[key[0]]

        def packed() -> np.ndarray:
            buffer = getattr(self._scratch, "buffer", None)
            if buffer is None or buffer.size < slabs.slot_bytes:
                buffer = self._scratch.buffer = np.empty(slabs.slot_bytes, dtype=np.uint8)
            slabs.pack(key[1], weights, buffer)
            return buffer[: slabs.slot_bytes]

        return packed

    def content(self, key: ExpertKey) -> Callable[[], ExpertBytes]:
        """See RamTier.content."""
        weights = self.weights(key)
        return lambda: (weights.gate.data, weights.up.data, weights.down.data)

    def request(
        self, key: ExpertKey, urgency: Urgency, only_over: float | None = None, instead_of: ExpertKey | None = None
    ) -> bool:
        """Nothing has to be read."""
        raise AssertionError(f"{key} is mapped")

    def lend(self, nbytes: int) -> None:
        """The system takes what it needs by itself."""

    @property
    def lent_bytes(self) -> int:
        """Nothing."""
        return 0

    @property
    def promised_bytes(self) -> int:
        """Nothing."""
        return 0

    def collect(self, timeout_s: float | None = 0.0) -> list[ExpertKey]:
        """Nothing comes."""
        return []

    @property
    def open_reads(self) -> int:
        """Nothing comes."""
        return 0

    def is_under_way(self, key: ExpertKey) -> bool:
        """Nothing comes."""
        return False

    def cancel(self) -> None:
        """Nothing is under way."""

    def reader_state(self) -> None:
        """There is no drive."""

    def close(self) -> None:
        """The file belongs to whoever mapped it."""


class PagedTier:
    """Experts in the slots of an arena, read from the drive as they are wanted."""

    def __init__(
        self, slabs: SlabMap, residency: Residency, arena: Arena, reader: DriveReader, files: ExitStack
    ) -> None:
        """`files` is what `close` closes: the reader's threads, then what they read."""
        self._files = files
        self._slabs, self._residency, self._arena, self._reader = slabs, residency, arena, reader
        self._reads: dict[ExpertKey, Read] = {}
        self._in_slot: dict[Slot, tuple[ExpertKey, ExpertWeights]] = {}
        self._lent: list[Slot] = []
        self._taken: set[Slot] = set()  # those that something was read into

    def weights(self, key: ExpertKey) -> ExpertWeights:
        """See RamTier.weights."""
        slot = self._residency.ram.slot(key)
        known = self._in_slot.get(slot)
        if known is not None and known[0] == key:
            return known[1]
        expert = self._slabs.layers[key[0]].weights(key[1], self._arena.array(slot))
        self._in_slot[slot] = (key, expert)
        return expert

    def slot_bytes(self, key: ExpertKey) -> Callable[[], np.ndarray]:
        """See RamTier.slot_bytes: the slot itself."""
        array = self._arena.array(self._residency.ram.slot(key))
        return lambda: array

    def content(self, key: ExpertKey) -> Callable[[], ExpertBytes]:
        """See RamTier.content."""
        return self.slot_bytes(key)

    def request(
        self, key: ExpertKey, urgency: Urgency, only_over: float | None = None, instead_of: ExpertKey | None = None
    ) -> bool:
        """See RamTier.request."""
        read = self._reads.get(key)
        if read is not None:
            self._reader.hurry(read, urgency)
            return True
        slot = self._residency.reserve(key, only_over, instead_of)
        if slot is None:
            return False
        pieces = self._slabs.pieces(key, self._arena.view(slot))
        self._reads[key] = self._reader.submit(key, pieces, urgency, self._slabs.finisher(key, self._arena.array(slot)))
        return True

    def lend(self, nbytes: int) -> None:
        """See RamTier.lend."""
        before = set(self._lent)
        self._residency.give_back(self._lent)
        self._lent = self._residency.lend(nbytes)
        for slot in self._lent:
            if slot not in before:
                self._in_slot.pop(slot, None)
                self._taken.discard(slot)
                self._arena.release(slot)

    @property
    def lent_bytes(self) -> int:
        """See RamTier.lent_bytes."""
        return self._bytes_of(self._lent)

    @property
    def promised_bytes(self) -> int:
        """See RamTier.promised_bytes."""
        return self._residency.ram.capacity_bytes - self.lent_bytes - self._bytes_of(self._taken)

    def _bytes_of(self, slots: Iterable[Slot]) -> int:
        classes = self._residency.ram.classes
        return sum(classes[slot.size_class].slot_bytes for slot in slots)

    def collect(self, timeout_s: float | None = 0.0) -> list[ExpertKey]:
        """See RamTier.collect."""
        arrived, error = [], None
        for read in self._reader.collect(timeout_s):
            del self._reads[read.key]
            self._taken.add(self._residency.ram.slot(read.key))
            if read.is_complete:
                self._residency.arrived(read.key)
                arrived.append(read.key)
                continue
            self._residency.failed(read.key)
            if read.urgency == Urgency.DEMAND and not read.cancelled:
                error = error or read.error
        if error is not None:
            # A fresh one: the same object raised again would collect tracebacks.
            raise StoreError(str(error)) from error
        return arrived

    @property
    def open_reads(self) -> int:
        """See RamTier.open_reads."""
        return len(self._reads)

    def is_under_way(self, key: ExpertKey) -> bool:
        """See RamTier.is_under_way."""
        return key in self._reads

    def cancel(self) -> None:
        """See RamTier.cancel."""
        for read in self._reads.values():
            self._reader.cancel(read)
        while self._reads:
            self.collect(None)

    def reader_state(self) -> ReaderState:
        """See RamTier.reader_state."""
        return self._reader.state()

    def close(self) -> None:
        """See RamTier.close."""
        self._files.close()
