"""Where a conversion goes on: what its journal promises, as far as the files hold it."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from quant.convert.job_types import ConvertJob, Stretch
from quant.convert.journal import RESTART_HINT, JournalContent
from quant.convert.output_layout import OutputLayout
from quant.errors import OutputError

_READ_BYTES = 1 << 20
_SHOWN_VALUE = 40  # longer values of a fingerprint are digests, which say nothing to a reader


@dataclass(frozen=True)
class Place:
    """A position in an output: file number and offset. Everything before it is written."""

    file: int
    offset: int


def new_digest() -> "hashlib.blake2b":
    """What the digests of stretches are made with."""
    return hashlib.blake2b(digest_size=16)


def check_same_work(job: ConvertJob, content: JournalContent) -> None:
    """Raise OutputError, which names what differs, unless the journal is that of this job."""
    changes = _changes(content.fingerprint, job.fingerprint)
    if not changes and content.layout_digest != job.layout.digest:
        changes = ["its tensors or metadata are not laid out as before"]
    if changes:
        raise OutputError(
            f"{job.layout.destination} was begun in another way: {'; '.join(changes)}. Run the command as before to "
            f"go on, or {RESTART_HINT}"
        )


def trusted(job: ConvertJob, content: JournalContent | None) -> tuple[Stretch, ...]:
    """The journal's stretches that the files really hold.

    The last one is read back and compared; one that is missing, cut off or not as it was written gives way to the one
    before it. Raises OutputError for a journal that contradicts itself or a file that cannot be read.
    """
    if content is None:
        return ()
    _check_chain(job.layout, content.stretches)
    held = [_held_bytes(job.layout, file) for file in range(len(job.layout.files))]
    missing = (index for index, stretch in enumerate(content.stretches) if held[stretch.file] < stretch.end)
    count = next(missing, len(content.stretches))
    while count and not _is_as_written(job.layout, content.stretches[count - 1]):
        count -= 1
    return content.stretches[:count]


def place_after(layout: OutputLayout, stretches: tuple[Stretch, ...]) -> Place:
    """Where writing goes on after these stretches."""
    if not stretches:
        return Place(0, 0)
    last = stretches[-1]
    return Place(last.file + 1, 0) if last.end == layout.files[last.file].nbytes else Place(last.file, last.end)


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [_change(key, before.get(key), now.get(key)) for key in {**before, **now} if before.get(key) != now.get(key)]


def _change(key: str, before: str | None, now: str | None) -> str:
    if now is None:
        return f"{key} is missing now"
    if before is None:
        return f"{key} was not there before"
    if max(len(before), len(now)) > _SHOWN_VALUE:
        return f"{key} is not what it was"
    return f"{key} is {now} now, {before} before"


def _check_chain(layout: OutputLayout, stretches: tuple[Stretch, ...]) -> None:
    """Every stretch begins where the one before it ended."""
    for index, stretch in enumerate(stretches):
        place = place_after(layout, stretches[index - 1 : index] if index else ())
        expected = (place.file, place.offset)
        inside = stretch.file < len(layout.files) and stretch.start < stretch.end <= layout.files[stretch.file].nbytes
        if (stretch.file, stretch.start) != expected or not inside:
            raise OutputError(
                f"{layout.journal_path} is damaged: stretch {index + 1} begins at byte {stretch.start:,} of file "
                f"{stretch.file + 1}: {RESTART_HINT}"
            )


def _held_bytes(layout: OutputLayout, file: int) -> int:
    path = layout.part_path(layout.files[file])
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise OutputError(f"cannot look at {path}: {error.strerror}") from error


def _is_as_written(layout: OutputLayout, stretch: Stretch) -> bool:
    path = layout.part_path(layout.files[stretch.file])
    try:
        with path.open("rb") as file:
            return stretch_digest(file, stretch) == stretch.digest
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error


def stretch_digest(file: BinaryIO, stretch: Stretch) -> str:
    """Digest of what `file` holds in a stretch. Another one than the stretch's if it is cut off. Raises OSError."""
    digest, position = new_digest(), stretch.start
    while position < stretch.end:
        data = os.pread(file.fileno(), min(_READ_BYTES, stretch.end - position), position)
        if not data:
            break
        digest.update(data)
        position += len(data)
    return digest.hexdigest()
