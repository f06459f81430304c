"""The journal of a conversion: what of the output is known to be on the drive, a line of JSON for each stretch of it.

It lies beside the output while that is incomplete, and its lock says that somebody is at work. The first line says
what is being made. Each line carries a check sum: what a power cut left half written is told from damage.
"""

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.convert.job_types import Stretch
from quant.errors import OutputError
from quant.files.part_file import is_still_named, sync_folder, take_lock

_VERSION_KEY, _VERSION = "k2lite_journal", 1
_FIRST_BYTES = f'{{"{_VERSION_KEY}":'.encode()
_SUM_BYTES = len(b',"sum":"01234567"}')

# A record a second for three weeks; longer ones are not ours.
_MAX_BYTES = 256 * 1024 * 1024

RESTART_HINT = "start again with --restart, which gives up what was written"


@dataclass(frozen=True)
class JournalContent:
    """What a journal says. `ends[i]` is where the line of stretch i ends in the journal, `first_end` the first line's.

    `parts` are the names of the part files, relative to the folder of the journal. `complete` means that all stretches
    are there, and were verified if that was asked for: only names are missing. `runs` have worked at it so far, for
    `seconds` altogether, each until its last record.
    """

    fingerprint: Mapping[str, str]
    layout_digest: str
    parts: tuple[str, ...]
    first_end: int
    stretches: tuple[Stretch, ...]
    ends: tuple[int, ...]
    complete: bool
    runs: int
    seconds: float


class Journal:
    """The open, locked file. `append` may be called from one other thread; everything else belongs to the owner."""

    def __init__(self, path: Path) -> None:
        """Open and lock; created empty when it is not there. Raises OutputError, also when another process has it."""
        self.path = path
        self._size = 0
        self._opened_s = time.monotonic()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"cannot create {path}: {error.strerror}: choose a folder that can be written") from error
        if not take_lock(self._file) or not is_still_named(self._file, path):
            os.close(self._file)
            raise OutputError(f"another process is writing {path.stem}: wait for it or choose another name")
        size = os.fstat(self._file).st_size
        if size > _MAX_BYTES or not _may_be_ours(os.pread(self._file, len(_FIRST_BYTES), 0)):
            self.close()
            raise OutputError(f"{path} is no journal of k2lite: move it away or choose another name")

    def read(self) -> JournalContent | None:
        """What the file says, None where nothing was begun.

        Half a line at the end is left out. Raises OutputError for a file that is damaged or of another version.
        """
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        lines = _valid_lines(data, self.path)
        return _content(lines, self.path) if lines else None

    def start(self, fingerprint: Mapping[str, str], layout_digest: str, parts: Sequence[str]) -> None:
        """Forget everything and begin a new journal. It is on the drive on return. Raises OutputError."""
        first = {_VERSION_KEY: _VERSION, "fingerprint": dict(fingerprint), "layout": layout_digest, "parts": [*parts]}
        self.keep(0)
        self._append([first])
        sync_folder(self.path.parent)

    def keep(self, size: int) -> None:
        """Cut the journal to its first `size` bytes, the end of a line. Raises OutputError."""
        with _reported(self.path):
            os.ftruncate(self._file, size)
        self._size = size

    def begin_another_run(self) -> None:
        """Record that a run goes on with what earlier ones left. Raises OutputError."""
        self._append([{"run": "begins"}])

    def append(self, stretches: Sequence[Stretch]) -> None:
        """Record stretches whose bytes are on the drive. Raises OutputError; the journal is as before then."""
        seconds = round(time.monotonic() - self._opened_s, 1)
        self._append([{**vars(stretch), "seconds": seconds} for stretch in stretches])

    def append_complete(self) -> None:
        """Record that everything is written: from now on only names are to be given."""
        self._append([{"complete": True}])

    def remove(self) -> None:
        """Remove the file; the lock stays until `close`."""
        # The name goes before the lock does, or another process could take the journal over in between.
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lock back. Writing raises OutputError from here on."""
        file, self._file = self._file, -1
        os.close(file)

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        data = b"".join(map(_line, lines))
        with _reported(self.path):
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(self._file, data[written:], self._size + written)
                os.fdatasync(self._file)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise
        self._size += len(data)


def read_journal(path: Path) -> JournalContent | None:
    """What a journal says at this moment, without its lock: somebody may be at work. Raises OutputError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    if not _may_be_ours(data[: len(_FIRST_BYTES)]):
        raise OutputError(f"{path} is no journal of k2lite")
    lines = _valid_lines(data, path)
    return _content(lines, path) if lines else None


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()[:-1]
    return text + f',"sum":"{zlib.crc32(text):08x}"}}\n'.encode()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The content of a line without its newline, None for one that is damaged."""
    text, end = line[:-_SUM_BYTES], line[-_SUM_BYTES:]
    if end != f',"sum":"{zlib.crc32(text):08x}"}}'.encode():
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _may_be_ours(data: bytes) -> bool:
    """Whether these may be the bytes of a journal, or what a power cut made of one that was just begun."""
    start = data[: len(_FIRST_BYTES)]
    return _FIRST_BYTES.startswith(start) or not any(data)


def _valid_lines(data: bytes, path: Path) -> list[tuple[dict[str, Any], int]]:
    """Lines up to the first that is damaged, each with the position of its end."""
    valid: list[tuple[dict[str, Any], int]] = []
    end = 0
    pieces = data.split(b"\n")[:-1]
    for number, piece in enumerate(pieces):
        end += len(piece) + 1
        content = _parsed(piece)
        if content is None:
            # What follows the last good line was never promised to anybody. Damage before a good line is another thing.
            if any(_parsed(later) is not None for later in pieces[number + 1 :]):
                raise OutputError(f"{path} is damaged at line {number + 1}: {RESTART_HINT}")
            break
        valid.append((content, end))
    return valid


def _content(lines: list[tuple[dict[str, Any], int]], path: Path) -> JournalContent:
    first, first_end = lines[0]
    if first.get(_VERSION_KEY) != _VERSION:
        raise OutputError(
            f"{path} is of version {first.get(_VERSION_KEY)}, this k2lite writes version {_VERSION}: go on with the "
            f"one that began it, or {RESTART_HINT}"
        )
    stretches, ends, complete = [], [], False
    run_seconds = [0.0]
    try:
        fingerprint = {str(key): str(value) for key, value in first["fingerprint"].items()}
        layout_digest, parts = str(first["layout"]), tuple(map(str, first["parts"]))
        for record, end in lines[1:]:
            if "complete" in record:
                complete = True
            elif "run" in record:
                run_seconds.append(0.0)
            else:
                numbers = (int(record["file"]), int(record["start"]), int(record["end"]))
                stretches.append(Stretch(*numbers, str(record["digest"])))
                ends.append(end)
                run_seconds[-1] = float(record["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OutputError(f"{path} holds a line without {error}: {RESTART_HINT}") from error
    return JournalContent(
        fingerprint,
        layout_digest,
        parts,
        first_end,
        tuple(stretches),
        tuple(ends),
        complete,
        runs=len(run_seconds),
        seconds=sum(run_seconds),
    )
