"""Memory limits, in folders that look like those of Linux's control groups."""

from pathlib import Path

import pytest

from k2lite.bench.memory_limit import MemoryLimitError, memory_group

LIMIT = 4_000_000_000


def hierarchy(root: Path, own: str, version: int) -> tuple[Path, Path]:
    """The root of the groups and the list of this process's own one."""
    folder = (root / "memory" if version == 1 else root) / own
    folder.mkdir(parents=True)
    listed = root / "own"
    listed.write_text(f"5:cpu,memory:/{own}\n" if version == 1 else f"0::/{own}\n")
    return folder, listed


@pytest.mark.parametrize("version", [1, 2])
def test_a_system_that_makes_no_files_in_a_new_group_refuses(tmp_path: Path, version: int) -> None:
    folder, own = hierarchy(tmp_path, "mine", version)
    with pytest.raises(MemoryLimitError, match="may not limit memory"), memory_group(LIMIT, tmp_path, own):
        pass
    assert list(folder.iterdir()) == [], "the group that it tried is gone again"


def test_without_control_groups_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match="run as root"), memory_group(LIMIT, tmp_path, tmp_path / "absent"):
        pass


@pytest.mark.parametrize(
    ("version", "limit_file", "swap_file", "swap"),
    [(1, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", LIMIT), (2, "memory.max", "memory.swap.max", 0)],
)
def test_the_limit_holds_for_who_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, limit_file: str, swap_file: str, swap: int
) -> None:
    _, own = hierarchy(tmp_path, "mine", version)
    made = Path.mkdir

    def with_files(folder: Path) -> None:  # what the system does when a group is made
        made(folder)
        for name in (limit_file, swap_file, "cgroup.procs"):
            (folder / name).touch()

    monkeypatch.setattr(Path, "mkdir", with_files)
    with memory_group(LIMIT, tmp_path, own) as group:
        group.add(123)
        read = {path.name: path.read_text() for path in group.folder.iterdir()}
        assert read == {limit_file: str(LIMIT), swap_file: str(swap), "cgroup.procs": "123"}
        assert group.peak_bytes() is None
        for path in group.folder.iterdir():  # the system's files go with the group
            path.unlink()
    assert not group.folder.exists()
