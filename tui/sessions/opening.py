"""Opening the database, whatever state its file is in."""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from k2lite.safe_text import one_line
from tui.errors import SessionError
from tui.sessions.schema import migrate

_BUSY_PATIENCE_MS = 5000
# Reading a whole file before the first message takes seconds beyond this.
_CHECKED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Opened:
    """A connection ready for use, and what the user should know about it ("" when nothing)."""

    connection: sqlite3.Connection
    notice: str


def open_database(path: Path) -> Opened:
    """Open or create the file. One that cannot be read is set aside beside it, never deleted.

    The connection belongs to the calling thread. Raises SessionError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SessionError(f"conversations cannot be saved in {path.parent}: {error.strerror or error}") from error
    try:
        return Opened(_connect(path), "")
    except sqlite3.OperationalError as error:  # locked, no permission, disk full: the file itself may be sound
        raise SessionError(f"conversations cannot be saved in {path}: {one_line(str(error))}") from error
    except sqlite3.DatabaseError as error:
        aside = set_aside(path)
        notice = f"the saved conversations could not be read ({one_line(str(error))}): the file is now {aside}"
        return Opened(_connect(path), notice)


def set_aside(path: Path) -> Path:
    """Rename the file and what belongs to it; returns its new name, which did not exist before."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        aside = path.with_name(f"{path.name}.unreadable-{stamp}" + (f"-{number}" if number else ""))
        if not aside.exists():
            break
    else:
        raise SessionError(f"too many unreadable files beside {path}: move them away")
    for suffix in ("", "-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename(aside.with_name(aside.name + suffix))
    return aside


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"pragma busy_timeout = {_BUSY_PATIENCE_MS}")
        _check(connection, path)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("pragma foreign_keys = on")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises sqlite3.DatabaseError for a file that is damaged."""
    connection.execute("select count(*) from sqlite_master").fetchone()
    if path.stat().st_size <= _CHECKED_BYTES:
        (verdict,) = connection.execute("pragma quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
