"""Facts about the host: limits of control groups, cores, and speeds that can be."""

from pathlib import Path

import psutil
import pytest

from offload import probe_host
from offload.probe_host import host_memory, memory_limit, probe_arithmetic, probe_ram, usable_cores


def groups(folder: Path, limits: dict[str, str]) -> Path:
    for name, text in limits.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
        usage = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
        (folder / name).with_name(usage[Path(name).name]).write_text("0\n")
    return folder


def own(folder: Path, text: str) -> Path:
    path = folder / "own"
    path.write_text(text)
    return path


def test_the_least_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    root = groups(tmp_path / "cgroup", {"a/memory.max": "4000", "a/b/memory.max": "max", "memory.max": "9000"})
    assert memory_limit(root, own(tmp_path, "0::/a/b\n")) == 4000


def test_a_limit_of_version_1_is_found(tmp_path: Path) -> None:
    limits = {"memory/x/memory.limit_in_bytes": "5000", "memory/memory.limit_in_bytes": str(2**63 - 4096)}
    root = groups(tmp_path / "cgroup", limits)
    assert memory_limit(root, own(tmp_path, "4:memory:/x\n2:cpu:/\n")) == 5000


def test_no_limit_is_none(tmp_path: Path) -> None:
    root = groups(tmp_path / "cgroup", {"memory.max": "max"})
    assert memory_limit(root, own(tmp_path, "0::/\n")) is None
    assert memory_limit(root, tmp_path / "no such file") is None


def test_a_limit_is_what_there_is_of_memory(tmp_path: Path) -> None:
    root = groups(tmp_path / "cgroup", {"memory.max": str(1 << 30)})
    found = host_memory(root, own(tmp_path, "0::/\n"))
    assert found.total_bytes == found.limit_bytes == 1 << 30
    assert found.available_bytes <= 1 << 30


def test_cores_are_those_that_may_be_used() -> None:
    assert 1 <= usable_cores() <= len(psutil.Process().cpu_affinity())


def test_memory_and_arithmetic_have_plausible_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_host, "ROOF_BYTES", 16 << 20)
    assert 1e8 < probe_ram(1, seconds=0.01) < 1e13
    assert 1e8 < probe_arithmetic(1, seconds=0.01) < 1e15
