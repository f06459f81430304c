"""The one place that reads the environment: option twins, the cache folder, and what must be set before torch loads."""

import os
import shlex
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


def data_folder() -> Path:
    """Where what the user made lives (conversations): K2LITE_HOME/data, else the user's own data folder."""
    home = os.environ.get(PREFIX + "HOME")
    return Path(home) / "data" if home else platformdirs.user_data_path("k2lite")


def config_folder() -> Path:
    """Where settings are looked for: K2LITE_HOME/config, else the user's own configuration folder."""
    home = os.environ.get(PREFIX + "HOME")
    return Path(home) / "config" if home else platformdirs.user_config_path("k2lite")


def editor_command() -> list[str]:
    """The user's editor with its arguments, from VISUAL or EDITOR; empty when neither says."""
    return shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")


def over_ssh() -> bool:
    """Whether the terminal is on another machine, whose clipboard no program here can reach."""
    return bool(os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"))


def displays() -> frozenset[str]:
    """Which of the display servers x11 and wayland this session has."""
    names = {"x11": "DISPLAY", "wayland": "WAYLAND_DISPLAY"}
    return frozenset(name for name, variable in names.items() if os.environ.get(variable))


def inside_tmux() -> bool:
    """Whether the terminal is tmux, which passes clipboard sequences on only when it is told to."""
    return bool(os.environ.get("TMUX"))


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP's threads wait asleep. Works only before torch is imported; what the user set himself stays."""
    for name, value in _QUIET_THREADS.items():
        environment.setdefault(name, value)


def child_environment() -> dict[str, str]:
    """The environment of a child process that shall find the same k2lite, wherever it is started from."""
    package_parent = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([package_parent, known] if known else [package_parent])}
