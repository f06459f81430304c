"""Command lines that fail: how they are run, and what they must say."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from k2lite.environment import child_environment

K2LITE = (sys.executable, "-m", "k2lite.cli.main")
PATIENCE_S = 200  # a process needs a few seconds, a busy machine a multiple of that

Change = Callable[[Path], object]
Refused = Callable[..., str]


def says(line: str, *parts: str) -> None:
    """Check that the line holds all `parts`: what failed, with the name or number, then what to do."""
    assert all(part in line for part in parts), line


def is_one_line(text: str) -> None:
    """Check that all that was written to stderr is one line of ours."""
    assert text.startswith("k2lite: ") and text.count("\n") == 1 and text.endswith("\n"), text


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below `folder` with its content."""
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def run_process(
    *arguments: object,
    before: Callable[[], None] | None = None,
    environment: dict[str, str] | None = None,
    stdin: bytes | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, `before` in it first. No `stdin` is an empty one."""
    # Under a limit on the length of files Python would leave modules cut off in its cache, for all who import them
    # afterwards.
    variables = child_environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | (environment or {})
    result = subprocess.run(
        [*K2LITE, *map(str, arguments)],
        input=stdin or b"",
        capture_output=True,
        env=variables,
        preexec_fn=before,
        timeout=PATIENCE_S,
    )
    return subprocess.CompletedProcess(result.args, result.returncode, result.stdout.decode(), result.stderr.decode())
