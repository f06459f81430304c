"""What a chat is started with. The command line makes one; tests make others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tui.conversation import ChatSettings
from tui.engine_slot import EngineMaker, ModelChoice
from tui.tool_rounds import DEFAULT_MAX_ROUNDS
from tui.tools.mcp_server import McpServer


@dataclass(frozen=True)
class Launch:
    """`database` None saves nothing; `resume` is a chat's number or "last".

    `tools` are offered to the model, `allowed` ones run without being asked for. `keys` maps the ids of key bindings
    to keys; `models_folder` is where the model picker looks.
    """

    make_engine: EngineMaker
    settings: ChatSettings = field(default_factory=ChatSettings)
    choice: ModelChoice = field(default_factory=ModelChoice)
    database: Path | None = None
    resume: int | Literal["last"] | None = None
    theme: str = "textual-dark"
    models_folder: Path = Path()
    tools: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    mcp_servers: tuple[McpServer, ...] = ()
    tool_rounds: int = DEFAULT_MAX_ROUNDS
    keys: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    experts: bool = False
