"""Files named in a prompt with @path: read, bounded, and put behind what was typed."""

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tui.errors import AttachmentError

MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 20

_MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|([^\s"]+))')
# What is cut off behind a name at the end of a sentence, when there is no file with it.
_PUNCTUATION = ".,;:!?)"


@dataclass(frozen=True)
class Attached:
    """A prompt with its files: `content` is what the model gets, `files` the names with their bytes."""

    content: str
    files: tuple[tuple[str, int], ...]


def attach(typed: str) -> Attached:
    """Read every file that `typed` names. Blocks on the disk.

    An @word that is neither a file nor looks like a path stays text. Raises AttachmentError.
    """
    parts, files = [typed], []
    for path in dict.fromkeys(_mentioned(typed)):
        text, size = _read(path)
        fence = "```"
        while fence in text:
            fence += "`"
        parts.append(f"Contents of {path}:\n\n{fence}\n{text.rstrip()}\n{fence}")
        files.append((str(path), size))
    if len(files) > MAX_FILES:
        raise AttachmentError(f"{len(files)} files are attached, but at most {MAX_FILES} at a time are taken")
    return Attached("\n\n".join(parts), tuple(files))


def _mentioned(typed: str) -> Iterator[Path]:
    for match in _MENTION.finditer(typed):
        name = match[1] or match[2]
        for candidate in dict.fromkeys((name, name.rstrip(_PUNCTUATION))):
            path = Path(candidate).expanduser() if candidate else None
            if path is not None and _exists(path):
                yield path
                break
        else:
            if match[1] or "/" in name:
                raise AttachmentError(f"there is no file {name}: correct the name, or leave the @ out")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _read(path: Path) -> tuple[str, int]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AttachmentError(f"{path} is a folder: name the files in it")
        if not stat.S_ISREG(status.st_mode):
            raise AttachmentError(f"{path} is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise AttachmentError(f"{path} has {status.st_size:,} bytes, but at most {MAX_FILE_BYTES:,} are attached")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise AttachmentError(f"cannot read {path}: {error.strerror or error}") from error
    if b"\0" in content:
        raise AttachmentError(f"{path} is a binary file: only text can be attached")
    try:
        return content.decode("utf-8"), len(content)
    except UnicodeDecodeError as error:
        raise AttachmentError(f"{path} is not UTF-8 at byte {error.start}: convert it first") from error
