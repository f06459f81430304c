"""The memory's read bandwidth, measured in a process of its own, in turn with the other sides."""

from typing import Any

import numpy as np

from offload.roof import ROOF_BYTES, ram_read_bandwidth


class RoofSide:
    """Reads memory when it is told to. See child.Side."""

    def __init__(self) -> None:
        self._values = np.empty(0, np.uint64)

    def load(self, nbytes: int = ROOF_BYTES) -> dict[str, Any]:
        """Take the memory. Pages that were never written would all be the same one."""
        self._values = np.ones(nbytes // 8, np.uint64)
        return {}

    def roof(self, threads: int) -> dict[str, Any]:
        """One measurement."""
        return {"bytes_per_s": ram_read_bandwidth(threads, self._values)}
