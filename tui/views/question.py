"""What the user has asked."""

from textual.app import ComposeResult
from textual.widgets import Static

from k2lite.safe_text import one_line, printable
from k2lite.sizes import format_bytes
from tui.conversation import Node
from tui.views.message_view import MessageView
from tui.views.plain_text import shortened


class Question(MessageView):
    """As it was typed, with the names of attached files under it."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, classes="question")

    def compose(self) -> ComposeResult:
        assert self.node is not None, "a question is in the conversation from the start"
        yield self.branches()
        yield Static(printable(shortened(self.node.typed)), markup=False, classes="text")
        for name, size in self.node.entry.extra.get("attached", ()):
            yield Static(f"+ {one_line(str(name))} ({format_bytes(size)})", markup=False, classes="attached")
