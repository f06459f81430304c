"""Lines in the log that are no message of the conversation."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from k2lite.safe_text import one_line, printable
from tui.conversation import Node
from tui.views.message_view import MessageView
from tui.views.plain_text import shortened


class Notice(Static):
    """What the program has to say. `kind` is "note" or "error"."""

    def __init__(self, text: str, kind: str = "note") -> None:
        super().__init__(one_line(text), markup=False, classes=kind)
        self.text, self.kind = text, kind


class Cut(MessageView):
    """Where the model's memory of the conversation begins."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, classes="cut")

    def compose(self) -> ComposeResult:
        assert self.node is not None, "a cut is in the conversation from the start"
        kept = int(self.node.entry.extra.get("kept", 0))
        yield self.branches()
        yield Static(f"✂ messages before this are no longer sent, but for the last {kept}", markup=False)
        if self.node.message.content:
            summary = f"In short: {shortened(self.node.message.content)}"
            yield Static(printable(summary), markup=False, classes="text")


class EarlierMessages(Static, can_focus=True):
    """Stands for the messages before those that are shown; Enter brings some of them."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "show", "Show earlier")]

    def __init__(self, count: int) -> None:
        super().__init__(f"… {count:,} earlier messages: Enter or a click shows some of them", markup=False)

    def action_show(self) -> None:
        self.app.run_worker(self.app.query_one("MessageLog").show_earlier())  # type: ignore[attr-defined]

    def on_click(self) -> None:
        self.action_show()
