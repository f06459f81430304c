"""What a tool is, and the box of those that a chat has."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from k2lite.events import ToolCall
from tui.errors import ToolError

Arguments = Mapping[str, Any]
Run = Callable[[Arguments], Awaitable[str]]

MAX_RESULT_CHARACTERS = 20_000


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `run` raises ToolError; `source` is "built-in" or an MCP server's name."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Run
    source: str = "built-in"

    @property
    def declaration(self) -> dict[str, Any]:
        """In OpenAI's form, which chat templates read."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


class Toolbox:
    """The tools of a chat, which of them are offered to the model, and which may run without being asked for."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self.offered: set[str] = set()
        self.allowed: set[str] = set()
        self.allowed_here: set[str] = set()
        for tool in tools:
            self.add(tool)

    def add(self, tool: Tool) -> None:
        """Raises ToolError for a name that is taken."""
        if tool.name in self._tools:
            other = self._tools[tool.name].source
            raise ToolError(f"two tools are called {tool.name} ({other} and {tool.source}): leave one of them out")
        self._tools[tool.name] = tool

    @property
    def tools(self) -> list[Tool]:
        return list(self._tools.values())

    @property
    def declarations(self) -> list[dict[str, Any]]:
        """Those that are offered, as a request has them."""
        return [tool.declaration for tool in self._tools.values() if tool.name in self.offered]

    def may_run(self, name: str) -> bool:
        """Whether the user need not be asked."""
        return name in self.allowed or name in self.allowed_here

    def new_chat(self) -> None:
        """What was allowed for the chat before is not for the next one."""
        self.allowed_here.clear()

    async def run(self, call: ToolCall) -> str:
        """The tool's result, or what is wrong with the call, as the model gets to read it."""
        try:
            tool = self._tools.get(call.name)
            if tool is None or call.name not in self.offered:
                known = ", ".join(sorted(self.offered)) or "none"
                raise ToolError(f"there is no tool {call.name}; there are: {known}")
            result = await tool.run(parsed_arguments(call))
        except ToolError as error:
            return f"error: {error}"
        if len(result) > MAX_RESULT_CHARACTERS:
            result = f"{result[:MAX_RESULT_CHARACTERS]}\n(cut off: {len(result):,} characters in all)"
        return result


def parsed_arguments(call: ToolCall) -> Arguments:
    """Raises ToolError when they are no JSON object."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the arguments are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ToolError(f"the arguments are a {type(arguments).__name__}: they must be an object")
    return arguments


def text_argument(arguments: Arguments, name: str) -> str:
    """Raises ToolError when it is missing or no text."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ToolError(f"the argument {name} is missing or no text")
    return value
