"""Tools of an MCP server over its stdin and stdout, through the official `mcp` package, an optional extra."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from k2lite.safe_text import one_line
from tui.errors import ToolError
from tui.tools.tool import Arguments, Tool

if TYPE_CHECKING:
    from mcp import Client  # type: ignore[import-not-found,unused-ignore]

    from tui.tools.mcp_server import McpServer

Result = TypeVar("Result")

_START_PATIENCE_S = 30.0
_CALL_PATIENCE_S = 120.0
_MOST_TOOLS = 200


class McpConnection:
    """One server and the thread in which it is talked to: its library wants to open and close in one task."""

    def __init__(self, server: "McpServer") -> None:
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._end: asyncio.Event | None = None
        self._started = threading.Event()
        self._problem: BaseException | None = None

    async def open(self) -> list[Tool]:
        """Start the server; returns its tools. Raises ToolError."""
        _need_mcp()
        threading.Thread(target=self._run, name=f"k2lite-mcp-{self._server.name}", daemon=True).start()
        await asyncio.to_thread(self._started.wait, _START_PATIENCE_S)
        if self._problem is not None or self._client is None:
            reason = "it has not answered" if self._problem is None else _reason(self._problem)
            raise ToolError(f"the MCP server {self._server.name} ({self._server.command[0]}) did not start: {reason}")
        return await self._ask(self._tools(self._client))

    def close(self) -> None:
        """Let the server end. Does not wait."""
        if self._loop is not None and self._end is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the server
            self._problem = error
        finally:
            self._client = None
            self._started.set()

    async def _serve(self) -> None:
        from mcp import Client, StdioServerParameters  # type: ignore[import-not-found,unused-ignore]
        from mcp.client.stdio import stdio_client  # type: ignore[import-not-found,unused-ignore]

        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        command, *arguments = self._server.command
        parameters = StdioServerParameters(command=command, args=arguments, env=dict(self._server.environment) or None)
        with Path(os.devnull).open("w") as nowhere:  # what the server complains about must not be drawn over the screen
            async with Client(stdio_client(parameters, errlog=nowhere)) as self._client:
                self._started.set()
                await self._end.wait()

    async def _tools(self, client: "Client") -> list[Tool]:
        found: list[Tool] = []
        cursor: str | None = None
        while len(found) < _MOST_TOOLS:
            page = await client.list_tools(cursor=cursor)
            found += [self._tool(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
            cursor = page.next_cursor
            if not cursor:
                break
        return found[:_MOST_TOOLS]

    def _tool(self, name: str, description: str, schema: dict[str, Any]) -> Tool:
        async def run(arguments: Arguments) -> str:
            client = self._client
            if client is None:
                raise ToolError(f"the MCP server {self._server.name} has ended")
            return await self._ask(self._call(client, name, dict(arguments)))

        return Tool(name, description, schema, run, source=self._server.name)

    async def _call(self, client: "Client", name: str, arguments: dict[str, Any]) -> str:
        result = await client.call_tool(name, arguments, read_timeout_seconds=_CALL_PATIENCE_S)
        texts = [getattr(block, "text", None) or f"({block.type}, which cannot be shown)" for block in result.content]
        text = "\n".join(texts)
        if result.is_error:
            raise ToolError(text or "the tool failed without a word")
        return text or "(nothing)"

    async def _ask(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` in the server's thread. Raises ToolError."""
        assert self._loop is not None, "asked before it was opened"
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            async with asyncio.timeout(_CALL_PATIENCE_S):
                return await asyncio.wrap_future(future)
        except ToolError:
            raise
        except TimeoutError as error:
            raise ToolError(
                f"the MCP server {self._server.name} has not answered for {_CALL_PATIENCE_S:.0f} s"
            ) from error
        except Exception as error:  # the library's, of many kinds
            raise ToolError(f"the MCP server {self._server.name}: {_reason(error)}") from error


def _need_mcp() -> None:
    try:
        import mcp  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError as error:
        raise ToolError("MCP servers need the package mcp: pip install 'k2lite[mcp]'") from error


def _reason(error: BaseException) -> str:
    """The innermost of a group of errors, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return one_line(f"{error}" or type(error).__name__)[:300]
