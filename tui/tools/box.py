"""The tools of a chat: the built-in ones, and those of the MCP servers it was started with."""

from typing import TYPE_CHECKING

from quant.errors import K2Error
from tui.errors import ToolError
from tui.tools.built_in import built_in_tools
from tui.tools.tool import Toolbox

if TYPE_CHECKING:
    from tui.launch import Launch
    from tui.tools.mcp_client import McpConnection


class ChatToolbox(Toolbox):
    """A toolbox that fetches the rest of its tools when it is told to."""

    def __init__(self, launch: "Launch") -> None:
        super().__init__(built_in_tools())
        self._wanted = launch.tools
        self._servers = launch.mcp_servers
        self._connections: list[McpConnection] = []
        self.allowed = set(launch.allowed)
        self._offer(complain=False)

    async def connect(self) -> list[K2Error]:
        """Start the MCP servers; returns what went wrong. Their tools are offered unless --tools names others."""
        problems: list[K2Error] = []
        for server in self._servers:
            from tui.tools.mcp_client import McpConnection

            connection = McpConnection(server)
            self._connections.append(connection)
            try:
                for tool in await connection.open():
                    self.add(tool)
                    self.offered.add(tool.name)
            except K2Error as error:
                problems.append(error)
        self._servers = ()
        return problems + self._offer(complain=True)

    def close(self) -> None:
        """End the servers, without waiting for them."""
        for connection in self._connections:
            connection.close()

    def _offer(self, complain: bool) -> list[K2Error]:
        names = {tool.name for tool in self.tools}
        if self._wanted == ("all",):
            self.offered |= names
            return []
        self.offered |= names & set(self._wanted)
        missing = sorted((set(self._wanted) | self.allowed) - names)
        if complain and missing:
            return [ToolError(f"there is no tool {', '.join(missing)}: there are {', '.join(sorted(names))}")]
        return []


def make_toolbox(launch: "Launch") -> ChatToolbox:
    """For one run of the app. Nothing is started yet."""
    return ChatToolbox(launch)
