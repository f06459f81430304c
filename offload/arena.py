"""One anonymous piece of memory, cut into the slots of a SlotTable once and for all. Nothing is allocated per token."""

import contextlib
import mmap
from collections.abc import Sequence

import numpy as np

from offload.drive import BLOCK_BYTES
from offload.slots import SizeClass, Slot
from quant.errors import StoreError

_HUGE_PAGE_BYTES = 2 << 20


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
            # Pages of 2 MiB begin at multiples of that only, and an anonymous mapping may begin anywhere.
            self._memory = mmap.mmap(-1, max(end, BLOCK_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise StoreError(
                f"the system gives no {end / 1e9:.1f} GB of memory for experts ({error.strerror}): "
                "ask for a smaller --ram-budget"
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE") and end >= _HUGE_PAGE_BYTES:
            with contextlib.suppress(OSError):  # a kernel without large pages: slower, and nothing else
                self._memory.madvise(mmap.MADV_HUGEPAGE)
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

    def _start(self, slot: Slot) -> int:
        return self._starts[slot.size_class] + slot.index * self._sizes[slot.size_class]
