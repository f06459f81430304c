"""How an MCP server is started. Light, for the command line reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class McpServer:
    """An MCP server that speaks over its stdin and stdout. `environment` is added to the few variables it gets."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
