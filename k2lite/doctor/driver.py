"""The driver of graphics cards, as the system's kernel knows it."""

from pathlib import Path

_VERSION = Path("/proc/driver/nvidia/version")


def driver_version(path: Path = _VERSION) -> str | None:
    """The version of NVIDIA's kernel module, None where it is not loaded."""
    try:
        words = path.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
