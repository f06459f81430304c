"""The settings file: TOML with the options of `k2lite chat`, and tables for keys, servers and prompts."""

import argparse
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from k2lite.cli.options import UsageError
from k2lite.environment import config_folder, option_from_environment
from tui.tools.mcp_server import McpServer

FILE_NAME = "chat.toml"
TABLES = ("keys", "mcp", "prompts")
MAX_FILE_BYTES = 2**20


def settings_path(arguments: Sequence[str]) -> Path | None:
    """The file that the command line or K2LITE_CONFIG names; the usual one when it is there; else None."""
    for place, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
        if argument == "--config" and place + 1 < len(arguments):
            return Path(arguments[place + 1])
    named = option_from_environment("config")
    if named is not None:
        return Path(named)
    usual = config_folder() / FILE_NAME
    return usual if usual.is_file() else None


def read_settings(path: Path) -> dict[str, Any]:
    """Raises UsageError when it cannot be read or is no TOML."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"the settings file {path} is larger than {MAX_FILE_BYTES:,} bytes")
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the settings file {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the settings file {path} is not TOML: {error}") from error


def apply_settings(parser: argparse.ArgumentParser, settings: Mapping[str, Any], path: Path) -> None:
    """Make the file's values the defaults of options that have no variable set. Raises UsageError."""
    actions = {name(action): action for action in parser._actions if name(action) not in ("help", "config")}
    for key, value in settings.items():
        if key in TABLES:
            continue
        action = actions.get(key.replace("_", "-"))
        if action is None:
            known = ", ".join(sorted([*actions, *(f"[{table}]" for table in TABLES)]))
            raise UsageError(f"the settings file {path} has {key!r}, which is no option; there are: {known}")
        if option_from_environment(name(action)) is None:
            action.default = _value(action, value, f"{path}: {key}")


def name(action: argparse.Action) -> str:
    """An option's name as the file has it: "max-tokens"."""
    return action.option_strings[-1].lstrip("-") if action.option_strings else action.dest


def _value(action: argparse.Action, value: Any, where: str) -> Any:
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise UsageError(f"{where} is {value!r}, but must be true or false")
        return value
    values = value if isinstance(value, list) else [value]
    parse: Callable[[str], Any] = action.type or str  # type: ignore[assignment]
    try:
        parsed = [parse(_text(item)) for item in values]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise UsageError(f"{where} is not usable: {error}") from error
    if action.choices is not None and not set(parsed) <= set(action.choices):
        raise UsageError(f"{where} is {value!r}, but must be one of {', '.join(map(str, action.choices))}")
    if isinstance(action, argparse._AppendAction):
        return parsed
    if isinstance(value, list):
        return parse(",".join(_text(item) for item in value))
    return parsed[0]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is neither text nor a number")
    return str(value)


def keys_of(settings: Mapping[str, Any], path: Path | None) -> dict[str, str]:
    """The table [keys]: ids of bindings and keys. Raises UsageError."""
    return _texts(settings.get("keys", {}), f"{path}: [keys]")


def prompts_of(settings: Mapping[str, Any], path: Path | None) -> dict[str, str]:
    """The table [prompts]: names and texts. Raises UsageError."""
    return _texts(settings.get("prompts", {}), f"{path}: [prompts]")


def servers_of(settings: Mapping[str, Any], path: Path | None) -> list[McpServer]:
    """The tables [mcp.NAME], each with `command`, a list, and perhaps `env`, a table. Raises UsageError."""
    servers = settings.get("mcp", {})
    if not isinstance(servers, dict):
        raise UsageError(f"{path}: [mcp] must hold one table for each server")
    found = []
    for server, fields in servers.items():
        where = f"{path}: [mcp.{server}]"
        command = fields.get("command") if isinstance(fields, dict) else None
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            raise UsageError(f'{where} needs command = ["program", "argument"]')
        unknown = set(fields) - {"command", "env"}
        if unknown:
            raise UsageError(f"{where} has {', '.join(sorted(unknown))}; it may have command and env")
        found.append(McpServer(server, tuple(command), _texts(fields.get("env", {}), f"{where} env")))
    return found


def _texts(table: Any, where: str) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise UsageError(f"{where} must hold texts")
    return dict(table)
