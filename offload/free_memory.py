"""How much memory this process may take: what the machine has free, or less where a control group says so."""

from dataclasses import dataclass
from pathlib import Path

# Of the free memory: the system keeps the rest. Past that cliff a "hit" is a page fault, and slower than a read.
LARGEST_SHARE = 7 / 8
# What is left beside budget and cache for what is still to come: the tokenizer's tables, holes in the heap, pages of
# libraries and files. Where a control group limits nobody but us, the machine outside has memory of its own, and no
# more than this has to be left.
OWN_RESERVE_BYTES = 160 << 20
# Of all memory, the part that should stay free whatever happens, and the most that this is.
_LEAST_FREE_PART, _LEAST_FREE_BYTES = 64, 1 << 30
# A shell that started us, and the like.
_NEGLIGIBLE_BYTES = 64 << 20

_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
# Limit, use, and the page cache's part of it in memory.stat: version 1, version 2.
_FILES = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ("memory.max", "memory.current", "file"),
)


@dataclass(frozen=True)
class GroupLimit:
    """Limit and use, in bytes, of a control group; the page cache is no use."""

    limit_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What may still be taken."""
        return max(0, self.limit_bytes - self.used_bytes)


@dataclass(frozen=True)
class FreeMemory:
    """`free_bytes` may still be taken, and `least_bytes` of them should stay free: below, the system is in trouble."""

    free_bytes: int
    least_bytes: int


def memory_left(own: Path = _OWN, root: Path = _ROOT) -> FreeMemory:
    """Where it is tightest: the machine, or a control group."""
    import psutil  # only here: benchmarks on a bare machine do without

    machine = psutil.virtual_memory()
    found = [(machine.available, machine.total)]
    found += [(group.free_bytes, group.limit_bytes) for group in group_limits(own, root)]
    left = [FreeMemory(free, min(_LEAST_FREE_BYTES, total // _LEAST_FREE_PART)) for free, total in found]
    return min(left, key=lambda memory: memory.free_bytes - memory.least_bytes)


def free_memory_bytes(own: Path = _OWN, root: Path = _ROOT) -> int:
    """Bytes that are free for this process."""
    return min([_available_bytes(), *(group.free_bytes for group in group_limits(own, root))])


def default_budget_bytes(cache_bytes: int = 0, own: Path = _OWN, root: Path = _ROOT) -> int:
    """What experts and all other weights may take when nobody says otherwise. `cache_bytes` are for the KV cache."""
    import psutil

    available = _available_bytes()
    budgets = [min(int(available * LARGEST_SHARE), available - OWN_RESERVE_BYTES - cache_bytes)]
    process = psutil.Process().memory_info()
    for group in group_limits(own, root):
        left = group.free_bytes * (1 - LARGEST_SHARE)
        if group.used_bytes - (process.rss - process.shared) <= _NEGLIGIBLE_BYTES:  # nobody else lives there
            left = min(left, OWN_RESERVE_BYTES)
        budgets.append(int(group.free_bytes - left) - cache_bytes)
    return max(0, min(budgets))


def group_limits(own: Path = _OWN, root: Path = _ROOT) -> list[GroupLimit]:
    """Every control group that limits this process."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base = root / "memory"
        elif not controllers:
            base = root
        else:
            continue
        folder = base / path.lstrip("/")
        while True:
            found.append(limit_of(folder))
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent
    return [group for group in found if group is not None]


def limit_of(folder: Path) -> GroupLimit | None:
    """What a control group of version 1 or 2 says; None where it has no limit."""
    for limit_name, used_name, cache_name in _FILES:
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None:
            return GroupLimit(limit, used - _statistic(folder / "memory.stat", cache_name))
    return None


def _available_bytes() -> int:
    import psutil

    available: int = psutil.virtual_memory().available
    return available


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
