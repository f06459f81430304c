"""Running a command and watching what it takes: seconds, resident memory, bytes in a folder."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.05


@dataclass(frozen=True)
class Measured:
    """A finished command. `peak_rss_bytes` is of the process, `peak_folder_bytes` of the watched folder meanwhile."""

    seconds: float
    peak_rss_bytes: int
    peak_folder_bytes: int


def measure(command: Sequence[str], folder: Path) -> Measured:
    """Run `command` to its end. Raises CalledProcessError when it fails."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        errors: list[bytes] = []
        drain = threading.Thread(target=lambda stream=process.stderr: errors.append(stream.read()))
        drain.start()
        peak_folder_bytes = 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak_folder_bytes = max(peak_folder_bytes, folder_bytes(folder))
            time.sleep(_POLL_S)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        drain.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=b"".join(errors))
    peak_folder_bytes = max(peak_folder_bytes, folder_bytes(folder))
    return Measured(seconds, usage.ru_maxrss * 1024, peak_folder_bytes)


def folder_bytes(folder: Path) -> int:
    """Bytes that the files below `folder` take on the drive."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:  # renamed or removed since it was listed
            continue
    return total
