"""The memory's read bandwidth, measured in a process of its own, in turn with the other sides."""

from typing import Any

import numpy as np

from offload.roof import ROOF_BYTES, ram_read_bandwidth, roof_memory


class RoofSide:
    """Reads memory when it is told to. See child.Side."""

    def __init__(self) -> None:
        self._values = np.empty(0, np.uint64)

    def load(self, nbytes: int = ROOF_BYTES) -> dict[str, Any]:
        """Take the memory."""
        self._values = roof_memory(nbytes)
        return {}

    def roof(self, threads: int) -> dict[str, Any]:
        """One measurement."""
        return {"bytes_per_s": ram_read_bandwidth(threads, self._values)}
