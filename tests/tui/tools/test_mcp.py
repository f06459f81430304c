"""An MCP server as a user would add one. Skips itself where the package mcp is not installed."""

import asyncio
import sys
from pathlib import Path

import pytest

from k2lite.events import ToolCall
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import chat
from tui.errors import ToolError
from tui.tools.mcp_server import McpServer

SERVER = """
import os, sys
from mcp.server.mcpserver import MCPServer
server = MCPServer("test")

@server.tool()
def add(a: int, b: int) -> str:
    "Add two numbers"
    return f"{a + b} {os.environ.get('GREETING')}"

@server.tool()
def fails() -> str:
    raise ValueError("on purpose")

print("noise on stderr", file=sys.stderr)
server.run("stdio")
"""


@pytest.fixture
def server(tmp_path: Path) -> McpServer:
    pytest.importorskip("mcp", reason="the optional package mcp is not installed (pip install 'k2lite[mcp]')")
    (tmp_path / "server.py").write_text(SERVER)
    return McpServer("sums", (sys.executable, str(tmp_path / "server.py")), {"GREETING": "hello"})


async def test_a_servers_tool_runs_end_to_end(server: McpServer) -> None:
    call = ToolCall("functions.add:0", "add", '{"a": 2, "b": 3}')
    failing = ToolCall("functions.fails:1", "fails", "{}")
    engine = FakeEngine([Script(calls=(call, failing)), Script(says("Five."))])
    async with chat(engine, mcp_servers=(server,), allowed=("add", "fails")) as screen:
        await screen.ready()
        assert await screen.ask("2 + 3?") == "Five."
        assert screen.errors == []
    declared = {tool["function"]["name"]: tool["function"] for tool in engine.requests[0].tools}
    assert declared["add"]["description"] == "Add two numbers"
    assert set(declared["add"]["parameters"]["properties"]) == {"a", "b"}
    assert engine.requests[1].messages[-2].content == "5 hello"
    assert engine.requests[1].messages[-1].content.startswith("error: ")


async def test_a_servers_tool_is_asked_for_like_any_other(server: McpServer) -> None:
    engine = FakeEngine([Script(calls=(ToolCall("functions.add:0", "add", '{"a": 2, "b": 3}'),)), Script(says("No."))])
    async with chat(engine, mcp_servers=(server,)) as screen:
        await screen.ready()
        await screen.send("go")
        await screen.until(lambda: screen.status.startswith("the model wants to use add"))
        await asyncio.sleep(0.35)
        await screen.pilot.press("n")
        await screen.until(lambda: not screen.app.busy)
    assert "did not allow" in engine.requests[1].messages[-1].content


async def test_a_server_that_cannot_start_is_told_and_the_chat_goes_on(server: McpServer) -> None:
    engine = FakeEngine([Script(says("Yes."))])
    broken = McpServer("broken", ("/no/such/program",))
    async with chat(engine, mcp_servers=(broken,)) as screen:
        await screen.until(
            lambda: any("the MCP server broken (/no/such/program) did not start" in e for e in screen.errors)
        )
        assert await screen.ask("still there?") == "Yes."


async def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from tui.tools.mcp_client import McpConnection

    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ToolError, match=r"pip install 'k2lite\[mcp\]'"):
        await McpConnection(McpServer("any", ("true",))).open()
