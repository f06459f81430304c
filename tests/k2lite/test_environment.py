"""What the environment decides."""

from pathlib import Path

import pytest

from k2lite.environment import cache_folder, child_environment, option_from_environment, prepare_threads, twin_name


def test_an_option_has_a_variable() -> None:
    assert twin_name("--max-tokens") == "K2LITE_MAX_TOKENS"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K2LITE_CTX", "")
    assert option_from_environment("--ctx") is None
    monkeypatch.setenv("K2LITE_CTX", "4k")
    assert option_from_environment("--ctx") == "4k"


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("K2LITE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("K2LITE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "k2lite"


def test_threads_wait_asleep_unless_the_user_wants_otherwise() -> None:
    environment = {"KMP_BLOCKTIME": "200"}
    prepare_threads(environment)
    assert environment == {"KMP_BLOCKTIME": "200", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def test_a_child_finds_the_same_package_and_keeps_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    root = str(Path(__file__).resolve().parents[2])
    assert child_environment()["PYTHONPATH"].split(":") == [root, "/elsewhere"]


def test_only_one_module_reads_the_environment() -> None:
    root = Path(__file__).resolve().parents[2]
    readers = {
        str(path.relative_to(root))
        for room in ("quant", "offload", "k2lite", "tui")
        for path in (root / room).rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in ("os.environ", "getenv"))
    }
    assert readers == {"k2lite/environment.py"}
