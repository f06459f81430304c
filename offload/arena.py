"""One anonymous piece of memory, cut into the slots of a SlotTable once and for all. Nothing is allocated per token."""

import mmap
from collections.abc import Sequence

import numpy as np

from offload.drive import BLOCK_BYTES
from offload.resident import page_memory
from offload.slots import SizeClass, Slot
from quant.errors import StoreError


class Arena:
    """The bytes behind slots. Every slot begins at a page, so that direct reads may go there."""

    def __init__(self, classes: Sequence[SizeClass], slots: Sequence[int]) -> None:
        """Reserve memory; the system takes it as slots are filled. Raises StoreError when it refuses."""
        self._starts: list[int] = []
        self._sizes = [c.slot_bytes for c in classes]
        end = 0
        for size_class, count in zip(classes, slots, strict=True):
            assert size_class.slot_bytes % BLOCK_BYTES == 0, "a slot is whole pages"
            self._starts.append(end)
            end += size_class.slot_bytes * count
        self.nbytes = end
        try:
            self._memory = page_memory(end)
        except OSError as error:
            raise StoreError(
                f"the system gives no {end / 1e9:.1f} GB of memory for experts ({error.strerror}): "
                "ask for a smaller --ram-budget"
            ) from error
        self._bytes = np.frombuffer(self._memory, dtype=np.uint8)
        self._view = memoryview(self._memory)

    def array(self, slot: Slot) -> np.ndarray:
        """The bytes of a slot, uint8, shared."""
        start = self._start(slot)
        return self._bytes[start : start + self._sizes[slot.size_class]]

    def view(self, slot: Slot) -> memoryview:
        """The bytes of a slot, to be written to."""
        start = self._start(slot)
        return self._view[start : start + self._sizes[slot.size_class]]

    def release(self, slot: Slot) -> None:
        """Give the slot's memory back to the system; it comes again, as zeros, when the slot is written to."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, self._start(slot), self._sizes[slot.size_class])

    def _start(self, slot: Slot) -> int:
        return self._starts[slot.size_class] + slot.index * self._sizes[slot.size_class]
