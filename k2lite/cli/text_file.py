"""A text that the user names, whole."""

from pathlib import Path

from quant.errors import RequestError


def read_text(path: Path) -> str:
    """All of a UTF-8 file. Raises RequestError when it cannot be read or is in another encoding."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 at byte {error.start}: convert it first") from error
