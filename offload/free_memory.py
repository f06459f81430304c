"""How much memory this process may take: what the machine has free, or less where a control group says so."""

from pathlib import Path

import psutil

# Of the free memory: the system keeps the rest. Past that cliff a "hit" is a page fault, and slower than a read.
LARGEST_SHARE = 7 / 8

_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def free_memory_bytes(own: Path = _OWN, root: Path = _ROOT) -> int:
    """Bytes that are free for this process."""
    free: int = psutil.virtual_memory().available
    for limit, used in group_limits(own, root):
        free = min(free, max(0, limit - used))
    return free


def default_budget_bytes() -> int:
    """What experts and all other weights may take when nobody says otherwise."""
    return int(free_memory_bytes() * LARGEST_SHARE)


def group_limits(own: Path = _OWN, root: Path = _ROOT) -> list[tuple[int, int]]:
    """Limit and use, in bytes, of every control group that this process is in; the page cache is no use."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, files = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
        elif not controllers:
            base, files = root, ("memory.max", "memory.current", "file")
        else:
            continue
        folder = base / path.lstrip("/")
        while True:
            limit, used = _number(folder / files[0]), _number(folder / files[1])
            if limit is not None and used is not None:
                found.append((limit, used - _statistic(folder / "memory.stat", files[2])))
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent
    return found


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file or, as in "max", no number."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    """A number out of a group's statistics, 0 where it is not told."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(value) for key, value in (line.split() for line in lines) if key == name), 0)
