"""How far a conversion is that was interrupted, or that another process is still at."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quant.convert.journal import JournalContent, read_journal
from quant.errors import GgufError, UnsupportedError
from quant.files.paths import is_file
from quant.gguf.gguf_format import DEFAULT_ALIGNMENT, align_up
from quant.gguf.gguf_parser import Header, parse_header

_JOURNAL, _PART = ".journal", ".part"


@dataclass(frozen=True)
class Unfinished:
    """An output that has no name yet. `total_bytes` is None where it is not known (several files).

    `options` are what has to be the same for a run to go on with it. `complete` means that only names are missing.
    """

    destination: Path
    options: Mapping[str, str]
    written_bytes: int
    total_bytes: int | None
    files: int
    complete: bool


def find_unfinished(path: Path) -> Unfinished | None:
    """The interrupted conversion that `path` belongs to: its destination, its journal or a part file.

    None when there is none. Raises K2Error for a damaged journal.
    """
    for suffix in (_JOURNAL, _PART, ""):
        destination = path.with_name(path.name.removesuffix(suffix))
        journal = destination.with_name(destination.name + _JOURNAL)
        if path.name.endswith(suffix) and is_file(journal) and not destination.exists():
            content = read_journal(journal)
            return None if content is None else _unfinished(destination, content)
    return None


def _unfinished(destination: Path, content: JournalContent) -> Unfinished:
    written = sum(stretch.nbytes for stretch in content.stretches)
    total = _whole_length(destination.parent / content.parts[0]) if len(content.parts) == 1 else None
    return Unfinished(destination, content.fingerprint, written, total, len(content.parts), content.complete)


def _whole_length(part: Path) -> int | None:
    """The length that a GGUF file will have, by its header; None when that is not there yet."""
    try:
        with part.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _end(parse_header(content, part))
    except (OSError, ValueError, GgufError, UnsupportedError):  # ValueError is mmap's answer to an empty file
        return None


def _end(header: Header) -> int:
    """Behind the last tensor and its padding. Our files have the usual alignment and no gaps."""
    data = sum(align_up(entry.nbytes, DEFAULT_ALIGNMENT) for entry in header.entries)
    return align_up(header.end, DEFAULT_ALIGNMENT) + data
