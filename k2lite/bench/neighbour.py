"""A process that keeps one core busy and asks nothing of the memory: what somebody else's program does to a machine."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

_BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1000000): pass"
_START_S = 0.2


@contextlib.contextmanager
def busy_neighbour() -> Iterator[int]:
    """Burns the last core that this process may use until the block ends; yields the core's number."""
    core = max(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-S", "-c", _BURN], start_new_session=True)
    try:
        os.sched_setaffinity(process.pid, {core})
        time.sleep(_START_S)
        yield core
    finally:
        process.kill()
        process.wait()
