"""Telling whether a file is still the one that it was, without reading all of it."""

import hashlib
import os
from pathlib import Path

from quant.errors import K2Error

_SHOWN_DIGITS = 16


def file_identity(status: os.stat_result, header_digest: str) -> str:
    """Words that change with a file's length, the time it was written, or the digest of its header."""
    return f"{status.st_size} bytes, written at {status.st_mtime_ns} ns, header {header_digest[:_SHOWN_DIGITS]}"


def content_identity(path: Path, error: type[K2Error]) -> str:
    """Words that change with the content of a small file. Raises `error` when it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return f"{file.tell()} bytes, content {digest[:_SHOWN_DIGITS]}"
    except OSError as failure:
        raise error(f"cannot read {path}: {failure.strerror}: check who may read it") from failure
