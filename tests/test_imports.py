"""The walls of the house: imports run one way, and light things stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("quant", "offload", "k2lite", "tui")  # each may import itself and those before it
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
SCREEN_MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "tui").rglob("*.py"))
]


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    """Every room that a module imports, at its top or inside a function, with the line number."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            names = [node.module or ""]
        else:
            continue
        yield from ((name.split(".")[0], node.lineno) for name in names if name.split(".")[0] in ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = ROOMS.index(path.relative_to(ROOT).parts[0])
    backwards = [f"line {line}: {room}" for room, line in imported_rooms(path) if ROOMS.index(room) > own]
    assert not backwards


def test_the_walls_are_looked_at() -> None:
    assert len(MODULES) > 30
    assert list(imported_rooms(ROOT / "tui" / "app.py"))


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter has after running `code`."""
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.split())


def test_the_screen_does_not_load_torch() -> None:
    modules = loaded_by("\n".join(f"import {name}" for name in SCREEN_MODULES))
    assert "textual" in modules
    assert modules.isdisjoint({"torch", "numpy", "transformers"})


def test_the_engine_process_is_started_without_torch() -> None:
    assert loaded_by("import k2lite.engine_process, k2lite.events").isdisjoint({"torch", "numpy", "textual"})


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "run --help",
        "chat --help",
        "quantize --help",
        "imatrix --help",
        "inspect --help",
        "eval --help",
    ],
)
def test_help_is_quick(arguments: str) -> None:
    code = (
        "from k2lite.cli.main import main\n"
        f"try: main({arguments.split()!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code"
    )
    assert loaded_by(code).isdisjoint({"torch", "numpy", "textual", "rich", "llama_cpp", "jinja2"})
