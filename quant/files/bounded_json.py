"""JSON from files that nobody vouches for: bounded in size, without repeated keys, and an object at the top."""

import json
from pathlib import Path
from typing import Any

from quant.errors import CheckpointError

# The largest of these files is a tokenizer.json; that of DeepSeek-V3 takes 8 MB.
_MAX_OPTIONAL_BYTES = 256 * 1024 * 1024


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """The object in the file `path`.

    Raises CheckpointError when the file is missing, takes more than `max_bytes`, or is no valid JSON object.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > max_bytes:
        raise CheckpointError(f"{path} takes more than {max_bytes} bytes: this is not the file it should be")
    return parse_json_object(raw, str(path))


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object in the file `path`, {} when there is no such file.

    Raises CheckpointError when it cannot be read, takes more than 256 MiB, or is no valid JSON object.
    """
    return read_json_object(path, _MAX_OPTIONAL_BYTES) if path.exists() else {}


def parse_json_object(raw: bytes, source: str) -> dict[str, Any]:
    """The object that the bytes `raw` spell. Raises CheckpointError that calls it `source`."""
    try:
        value = json.loads(raw, object_pairs_hook=_without_repeats)
    # Text that nests too deeply exhausts the recursion of the parser.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} holds a {type(value).__name__} where an object is expected")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} appears twice")
        content[key] = value
    return content
