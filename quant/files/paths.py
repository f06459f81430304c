"""Looking at paths that users and files name: one that the system refuses to look at is simply not there."""

from pathlib import Path


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder. False also for what cannot be looked at, as a name of 300 letters."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether `path` is a regular file. False also for what cannot be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False
