"""The tools that come with the program: a file, a folder, the time, a Python expression."""

import asyncio
import datetime
import os
import stat
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tui.errors import ToolError
from tui.tools.python_expression import evaluate
from tui.tools.tool import Arguments, Run, Tool, text_argument

MAX_FILE_BYTES = 100_000
_MAX_NAMES = 500


def built_in_tools() -> list[Tool]:
    """All of them, in the order in which they are shown. Their names and parameters are those the demo model knows."""
    return [
        Tool("read_file", "Read a text file", _texts(path="The file"), _threaded(read_file)),
        Tool("list_folder", "List a folder", _texts(path="The folder"), _threaded(list_folder)),
        Tool("get_time", "The time in a city", _texts(city="Name of the city"), _threaded(get_time)),
        Tool(
            "run_python",
            "Evaluate one Python expression, without files or network; the math module is there",
            _texts(expression="The expression"),
            evaluate_expression,
        ),
    ]


def read_file(arguments: Arguments) -> str:
    """The beginning of a text file. Devices, pipes and binary files are refused."""
    path = Path(text_argument(arguments, "path")).expanduser()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ToolError(f"{path} is not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ToolError(f"cannot read {path}: {_reason(error)}") from error
    if b"\0" in content:
        raise ToolError(f"{path} is binary")
    text = content[:MAX_FILE_BYTES].decode("utf-8", "replace")
    if len(content) > MAX_FILE_BYTES:
        text += f"\n(the first {MAX_FILE_BYTES:,} of {status.st_size:,} bytes)"
    return text


def list_folder(arguments: Arguments) -> str:
    """Names, one a line; folders end with a slash."""
    path = Path(text_argument(arguments, "path")).expanduser()
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    except (OSError, ValueError) as error:
        raise ToolError(f"cannot list {path}: {_reason(error)}") from error
    if not names:
        return "(empty)"
    more = [f"(and {len(names) - _MAX_NAMES:,} more)"] if len(names) > _MAX_NAMES else []
    return "\n".join(names[:_MAX_NAMES] + more)


def get_time(arguments: Arguments) -> str:
    """The time in a place that has given its name to a time zone, as in Europe/Berlin; without a city, here."""
    city = str(arguments.get("city") or "").strip()
    if not city:
        return datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    wanted = city.lower().replace(" ", "_")
    zones = sorted(
        zone for zone in zoneinfo.available_timezones() if wanted in (zone.lower(), zone.lower().split("/")[-1])
    )
    if not zones:
        here = datetime.datetime.now().astimezone().strftime("%H:%M %Z")
        raise ToolError(f"no time zone is named after {city}; here it is {here}")
    return datetime.datetime.now(zoneinfo.ZoneInfo(zones[0])).strftime("%H:%M")


async def evaluate_expression(arguments: Arguments) -> str:
    return await evaluate(text_argument(arguments, "expression"))


def _threaded(work: Callable[[Arguments], str]) -> Run:
    """A slow disk must not hold the screen up."""

    async def run(arguments: Arguments) -> str:
        return await asyncio.to_thread(work, arguments)

    return run


def _texts(**fields: str) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text} for name, text in fields.items()}
    return {"type": "object", "properties": properties, "required": list(fields)}


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
