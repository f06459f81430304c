"""The one place that reads the environment: option twins, the cache folder, and what must be set before torch loads."""

import os
from collections.abc import MutableMapping
from pathlib import Path

import platformdirs

PREFIX = "K2LITE_"

# Two pools of threads that spin while they wait starve each other: torch's OpenMP threads shall sleep instead.
_QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def twin_name(option: str) -> str:
    """The variable that stands for an option: "max-tokens" -> "K2LITE_MAX_TOKENS"."""
    return PREFIX + option.lstrip("-").replace("-", "_").upper()


def option_from_environment(option: str) -> str | None:
    """The text of an option's variable, None when it is unset or empty."""
    return os.environ.get(twin_name(option)) or None


def cache_folder() -> Path:
    """Where derived files live (the quantized demo model): K2LITE_HOME/cache, else the user's own cache folder."""
    home = os.environ.get(PREFIX + "HOME")
    return Path(home) / "cache" if home else platformdirs.user_cache_path("k2lite")


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP's threads wait asleep. Works only before torch is imported; what the user set himself stays."""
    for name, value in _QUIET_THREADS.items():
        environment.setdefault(name, value)


def child_environment() -> dict[str, str]:
    """The environment of a child process that shall find the same k2lite, wherever it is started from."""
    package_parent = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([package_parent, known] if known else [package_parent])}
