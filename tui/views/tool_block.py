"""A tool call: what the model wants to run, the question whether it may, and what came of it."""

import asyncio
import json
import time
from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Button, Static

from k2lite.events import ToolCall
from k2lite.safe_text import one_line, printable
from tui.conversation import Node
from tui.views.message_view import MessageView
from tui.views.plain_text import shortened

Decision = Literal["once", "always", "no"]

_SHOWN_CHARACTERS = 1500
_DEAF_S = 0.3


class ToolBlock(MessageView):
    """`decision` waits for the user; `show_result` for the tool."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "decide('once')", "Run once", id="tool.once"),
        Binding("a", "decide('always')", "Always in this chat", id="tool.always"),
        Binding("n", "decide('no')", "Do not run", id="tool.no"),
    ]

    def __init__(self, call: ToolCall, node: Node | None = None) -> None:
        super().__init__(node, classes="tool")
        self.call = call
        self._decided: asyncio.Future[Decision] | None = None
        self._deaf_until = 0.0

    def compose(self) -> ComposeResult:
        yield Static(f"tool {one_line(self.call.name)}", markup=False, classes="name")
        yield Static(
            printable(shortened(arguments_text(self.call), _SHOWN_CHARACTERS)), markup=False, classes="arguments"
        )
        with Horizontal(classes="choices"):
            yield Button("Run once (y)", id="once", compact=True)
            yield Button("Always in this chat (a)", id="always", compact=True)
            yield Button("No (n)", id="no", compact=True)
        yield Static(markup=False, classes="result")

    def on_mount(self) -> None:
        self.query_one(".choices").display = False
        if self.node is not None:
            self.show_result(self.node.message.content)

    async def decision(self, take_focus: bool) -> Decision:
        """What the user says to it. Waits as long as that takes.

        Keys of the first moment do not count: they were meant for what had the focus before.
        """
        self._decided = asyncio.get_running_loop().create_future()
        self._deaf_until = time.monotonic() + _DEAF_S
        self.query_one(".choices").display = True
        if take_focus:
            self.focus()
        self.refresh_bindings()
        try:
            return await self._decided
        finally:
            self._decided = None
            if self.is_attached:
                self.query_one(".choices").display = False
                self.refresh_bindings()

    def show_state(self, text: str) -> None:
        """As in "running", until there is a result."""
        self.query_one(".result", Static).update(text)

    def show_result(self, text: str) -> None:
        """What the model gets to see."""
        self.query_one(".result", Static).update(printable("→ " + shortened(text, _SHOWN_CHARACTERS)))

    def action_decide(self, decision: Decision) -> None:
        if self._decided is not None and not self._decided.done() and time.monotonic() >= self._deaf_until:
            self._decided.set_result(decision)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._decided is not None if action == "decide" else super().check_action(action, parameters)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.action_decide(event.button.id)  # type: ignore[arg-type]  # the three ids are the three decisions


def arguments_text(call: ToolCall) -> str:
    """The arguments one a line; as the model wrote them when they are no JSON object."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments
    if not isinstance(arguments, dict):
        return call.arguments
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in arguments.items()
    )
