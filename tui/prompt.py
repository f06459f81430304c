"""The box in which the user writes."""

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Key
from textual.widgets import TextArea

_NEW_LINE = ("ctrl+j", "shift+enter")


class Prompt(TextArea):
    """Several lines of text; Enter sends them, Ctrl+J (or Shift+Enter where the terminal tells it) breaks the line.

    `send` is given the text and says whether it takes it; the box is emptied then.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send"),
        Binding("ctrl+j", "newline", "New line", key_display="^j"),
    ]

    def __init__(self, send: Callable[[str], bool]) -> None:
        super().__init__(placeholder="Ask something", compact=True, highlight_cursor_line=False)
        self._send = send

    def on_key(self, event: Key) -> None:
        """Handles both keys in the order of typing; a binding with priority would overtake the letters before it."""
        if event.key == "enter":
            self.action_submit()
        elif event.key in _NEW_LINE:
            self.action_newline()
        else:
            return
        event.prevent_default()
        event.stop()

    def action_submit(self) -> None:
        if self.text.strip() and self._send(self.text):
            self.clear()

    def action_newline(self) -> None:
        self.insert("\n")
