"""Which model files lie in a folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from tui.errors import SettingsError

_MOST_FILES = 500
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class ModelFile:
    """A model by its file, of several shards the first; `size_bytes` counts all of them."""

    path: Path
    size_bytes: int
    shards: int = 1


def model_files(folder: Path) -> list[ModelFile]:
    """The GGUF files in `folder` and right below it, sorted by name. Blocks on the disk. Raises SettingsError."""
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: --models names one with GGUF files")
    found: dict[Path, ModelFile] = {}
    for pattern in ("*.gguf", "*/*.gguf"):
        for path in sorted(folder.glob(pattern))[:_MOST_FILES]:
            _count(found, path)
    return sorted(found.values(), key=lambda file: str(file.path).lower())


def _count(found: dict[Path, ModelFile], path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError:  # it has just gone, or is a link to nowhere
        return
    shard = _SHARD.fullmatch(path.name)
    first = path if shard is None else path.with_name(f"{shard['stem']}-00001-of-{shard['count']}.gguf")
    known = found.get(first)
    found[first] = ModelFile(first, size + (known.size_bytes if known else 0), 1 + (known.shards if known else 0))
