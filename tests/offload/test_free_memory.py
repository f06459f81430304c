"""How much memory there is, where a control group has a say."""

from pathlib import Path

from offload.free_memory import free_memory_bytes


def group(root: Path, folder: str, limit: int, used: int, cache: int) -> None:
    path = root / "memory" / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (path / "memory.usage_in_bytes").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"cache 5\ntotal_cache {cache}\ntotal_rss 7\n")


def test_the_tightest_group_above_this_process_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("9:memory:/outer/inner\n8:cpu:/\n")
    group(tmp_path, "outer/inner", 1 << 40, 0, 0)
    group(tmp_path, "outer", 1000, 400, 100)
    assert free_memory_bytes(own, tmp_path) == 1000 - (400 - 100)


def test_version_2_says_max_where_there_is_no_limit(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/user/session\n")
    folder = tmp_path / "user" / "session"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("max\n")
    (folder / "memory.current").write_text("17\n")
    unlimited = free_memory_bytes(own, tmp_path)
    assert unlimited > 100 << 20
    (folder.parent / "memory.max").write_text("4096\n")
    (folder.parent / "memory.current").write_text("4000\n")
    (folder.parent / "memory.stat").write_text("anon 1\nfile 4\n")
    assert free_memory_bytes(own, tmp_path) == 100


def test_without_groups_the_machine_alone_counts(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path / "none", tmp_path) > 100 << 20
