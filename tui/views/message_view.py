"""What all messages in the log have in common: they can be chosen with the keyboard, and then worked on."""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from tui.conversation import Node


class MessageView(Vertical, can_focus=True):
    """A message on the screen. `node` is None as long as it is in no conversation yet."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "go('previous')", "Previous", show=False),
        Binding("down", "go('next')", "Next", show=False),
        Binding("e", "do('edit')", "Edit", id="message.edit"),
        Binding("r", "do('retry')", "Ask again", id="message.retry"),
        Binding("c", "do('copy')", "Copy", id="message.copy"),
        Binding("b", "do('code')", "Copy code", id="message.code"),
        Binding("left", "do('branch previous')", "Branch", id="message.previous", key_display="←→"),
        Binding("right", "do('branch next')", "Next branch", id="message.next", show=False),
    ]

    class Chosen(Message):
        """Something shall be done with a message: the name of a command."""

        def __init__(self, view: "MessageView", command: str) -> None:
            super().__init__()
            self.view, self.command = view, command

    class Moved(Message):
        """The one before or behind shall be chosen."""

        def __init__(self, view: "MessageView", step: int) -> None:
            super().__init__()
            self.view, self.step = view, step

    def __init__(self, node: Node | None, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self.node = node

    def branches(self) -> Static:
        """The line that says which of several alternatives this is; not displayed when there is one only."""
        line = Static(self._branch_text(), markup=False, classes="branches")
        line.display = bool(self._branch_text())
        return line

    def refresh_branches(self) -> None:
        """There are more or fewer alternatives now."""
        for line in self.query_children(".branches").results(Static):
            line.update(self._branch_text())
            line.display = bool(self._branch_text())

    def _branch_text(self) -> str:
        if self.node is None or self.node.parent is None or len(self.node.siblings) < 2:
            return ""
        place = self.node.siblings.index(self.node) + 1
        return f"‹ {place} of {len(self.node.siblings)} ›  ← → for the others"

    def action_do(self, command: str) -> None:
        self.post_message(self.Chosen(self, command))

    def action_go(self, where: str) -> None:
        self.post_message(self.Moved(self, 1 if where == "next" else -1))
