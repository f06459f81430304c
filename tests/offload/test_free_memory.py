"""How much memory there is, where a control group has a say."""

from pathlib import Path

import psutil

from offload.free_memory import OWN_RESERVE_BYTES, default_budget_bytes, free_memory_bytes


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


def budget_in(root: Path, limit: int, used: int, cache: int = 0) -> int:
    own = root / "cgroup"
    own.write_text("9:memory:/only\n")
    group(root, "only", limit, used, 0)
    return default_budget_bytes(cache, own, root)


def ours() -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def test_a_group_of_our_own_is_used_up_to_what_the_process_itself_takes(tmp_path: Path) -> None:
    used = ours()
    limit = used + (4 << 30)  # an eighth of what is free is more than the reserve
    assert budget_in(tmp_path, limit, used) == (4 << 30) - OWN_RESERVE_BYTES
    assert budget_in(tmp_path, used + (1 << 30), used) == (1 << 30) * 7 // 8


def test_where_others_live_too_an_eighth_stays_free(tmp_path: Path) -> None:
    used = ours() + (1 << 30)
    assert budget_in(tmp_path, used + (4 << 30), used) == (4 << 30) * 7 // 8


def test_the_cache_has_its_memory_beside_the_budget(tmp_path: Path) -> None:
    used = ours()
    limit = used + (1 << 30)
    assert budget_in(tmp_path, limit, used, cache=300 << 20) == (1 << 30) * 7 // 8 - (300 << 20)
    assert budget_in(tmp_path, limit, used, cache=2 << 30) == 0
