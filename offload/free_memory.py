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
    for limit, used in _limits(own, root):
        free = min(free, max(0, limit - used))
    return free


def default_budget_bytes() -> int:
    """What experts and all other weights may take when nobody says otherwise."""
    return int(free_memory_bytes() * LARGEST_SHARE)


def _limits(own: Path, root: Path) -> list[tuple[int, int]]:
    """Limit and use, in bytes, of every control group that this process is in."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, limit_file, use_file = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif not controllers:
            base, limit_file, use_file = root, "memory.max", "memory.current"
        else:
            continue
        folder = base / path.lstrip("/")
        while True:
            pair = _number(folder / limit_file), _number(folder / use_file)
            if pair[0] is not None and pair[1] is not None:
                found.append((pair[0], pair[1]))
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
