"""One memory limit for several processes: a control group of Linux, version 1 or 2."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from offload.free_memory import limit_of
from quant.errors import K2Error

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_REMOVE_TRIES = 50


class MemoryLimitError(K2Error):
    """This process may not limit the memory of others."""


class MemoryGroup:
    """A control group. What its processes read from files counts too, and is dropped when there is no more room."""

    def __init__(self, folder: Path, limit_file: str, peak_file: str) -> None:
        self.folder = folder
        self._limit_file, self._peak_file = limit_file, peak_file

    def add(self, pid: int) -> None:
        """Limit a process, and what it starts from now on."""
        try:
            (self.folder / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise _not_permitted(error) from error

    def set_limit(self, limit_bytes: int) -> None:
        """Change the limit. Raises OSError when the system refuses: version 1 does below what cannot be dropped."""
        with (self.folder / self._limit_file).open("r+") as file:
            file.write(str(limit_bytes))

    def used_bytes(self) -> int:
        """Memory of its processes that cannot be dropped: page cache of files is left out."""
        limit = limit_of(self.folder)
        assert limit is not None, "it was made with a limit"
        return limit.used_bytes

    def peak_bytes(self) -> int | None:
        """The most that was ever used, None where the system does not say."""
        try:
            return int((self.folder / self._peak_file).read_text())
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        """After its processes have ended; the system may take a moment to see that."""
        for _ in range(_REMOVE_TRIES):
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.02)


@contextlib.contextmanager
def memory_group(limit_bytes: int, root: Path = _ROOT, own: Path = _OWN, label: str = "") -> Iterator[MemoryGroup]:
    """A new group with this limit, and no swap, removed at the end. Raises MemoryLimitError where that is refused.

    Groups that exist at the same time need labels of their own.
    """
    group = _new_group(limit_bytes, root, own, label)
    try:
        yield group
    finally:
        group.remove()


def _new_group(limit_bytes: int, root: Path, own: Path, label: str) -> MemoryGroup:
    name = f"k2lite-bench-{os.getpid()}{label}"
    refused: OSError | None = None
    for parent, version in _parents(root, own):
        folder = parent / name
        try:
            folder.mkdir()
        except OSError as error:
            refused = error
            continue
        limit_file, peak_file, swap_file, swap = _FILES[version]
        try:
            # Opened without creating it: a group without the memory controller has no such file.
            with (folder / limit_file).open("r+") as file:
                file.write(str(limit_bytes))
            with contextlib.suppress(OSError), (folder / swap_file).open("r+") as file:  # absent where swap is off
                file.write(str(limit_bytes if swap is None else swap))
        except OSError as error:
            folder.rmdir()
            refused = error
            continue
        return MemoryGroup(folder, limit_file, peak_file)
    raise _not_permitted(refused)


# Version: limit, peak, and limit of swap with its value (None: the same as the limit, which then covers both).
_FILES: dict[int, tuple[str, str, str, int | None]] = {
    1: ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.memsw.limit_in_bytes", None),
    2: ("memory.max", "memory.peak", "memory.swap.max", 0),
}


def _parents(root: Path, own: Path) -> Iterator[tuple[Path, int]]:
    """Groups below which a new one may be possible: our own, then those above it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, version = root / "memory", 1
        elif not controllers:
            base, version = root, 2
        else:
            continue
        folder = base / path.lstrip("/")
        for candidate in (folder, *folder.parents):
            if candidate.is_dir():
                yield candidate, version
            if candidate == base:
                break


def _not_permitted(error: OSError | None) -> MemoryLimitError:
    reason = "" if error is None else f" ({error.strerror or error})"
    return MemoryLimitError(
        f"this process may not limit memory{reason}: run as root, or in a unit with delegated control groups "
        "(systemd-run --user --scope -p Delegate=yes k2lite bench ...)"
    )


def forget_cached(paths: list[Path]) -> None:
    """Drop these files from the page cache: pages that lie there already would not count against a limit."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
