"""Reading a model's file while torch is still being imported: the drive would have nothing to do for a second or more.

Imports no torch. What is read lies in the page cache, where the mapped model finds it: first what every token needs,
then experts, layer after layer.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from k2lite.engine_options import EngineOptions
from k2lite.events import Engine
from k2lite.expert_names import is_expert_tensor
from k2lite.uncollected import uncollected
from offload.free_memory import default_budget_bytes
from offload.warm_up import advise_needed, page_in
from quant.closing import Closing
from quant.errors import K2Error
from quant.files.paths import is_folder
from quant.gguf.gguf_file import GgufFile

_STEP_BYTES = 32 << 20
# The interpreter may be busy for a while before the next step can begin: the drive has so much to go on with.
_AHEAD_BYTES = 96 << 20


class HeadStart(Closing):
    """A thread that reads a file from its beginning to `close`. Does nothing for files that will not be mapped.

    Says nothing when something is wrong with the file: whoever loads it will.
    """

    def __init__(self, path: Path, ram_budget_bytes: int | None = None) -> None:
        self._path, self._budget_bytes = path, ram_budget_bytes
        self._closed = threading.Event()
        self.done_bytes = 0
        self._thread = threading.Thread(target=self._run, name="k2lite-head-start", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until all is read."""
        self._thread.join()

    def close(self) -> None:
        """End the thread, within one step."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for array in self._arrays():
                for start in range(0, array.size, _STEP_BYTES):
                    if self._closed.is_set():
                        return
                    step = array[start : start + _STEP_BYTES]
                    advise_needed([array[start : start + _AHEAD_BYTES]])
                    if not page_in(step):
                        return
                    self.done_bytes += step.size
        except (K2Error, OSError):
            return

    def _arrays(self) -> Iterator[np.ndarray]:
        if is_folder(self._path):
            return
        with GgufFile.open(self._path) as file:
            budget = default_budget_bytes() if self._budget_bytes is None else self._budget_bytes
            if sum(info.nbytes for info in file.tensors.values()) > budget:
                return
            for name in sorted(file.tensors, key=is_expert_tensor):  # a stable order: that of the file otherwise
                yield file.tensor(name).data


def make_local_engine(path: Path | None, options: EngineOptions) -> Engine:
    """An engine that is not loaded yet. Imports torch, and reads the model's file meanwhile."""
    head_start = None if path is None else HeadStart(path, options.ram_budget_bytes)
    try:
        with uncollected("k2lite.engine"):
            from k2lite.engine import LocalEngine
    except BaseException:
        if head_start is not None:
            head_start.close()
        raise
    return LocalEngine(path, options, head_start=head_start)
