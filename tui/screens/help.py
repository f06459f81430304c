"""All commands and keys on one page."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.commands import COMMANDS
from tui.keys import all_bindings


class HelpScreen(ModalScreen[None]):
    """Escape leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,q", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog large"):
            yield Static(Content("\n").join(list(self._lines())))

    def _lines(self) -> list[Content]:
        keymap = self.app._keymap
        lines = [Content.styled("Commands (Ctrl+P lists them too; Tab completes)", "bold")]
        width = max(len(f"/{one.name} {one.argument}") for one in COMMANDS.values())
        lines += [
            Content.assemble((f"/{one.name} {one.argument}".ljust(width + 2), "$text-accent"), one.summary)
            for one in COMMANDS.values()
        ]
        lines += [
            Content(),
            Content.styled("Keys (by their ids they get others: --key ID=KEY, or [keys] in the settings file)", "bold"),
        ]
        for binding in all_bindings():
            key = keymap.get(binding.id or "", binding.key).replace(",", ", ")
            lines.append(
                Content.assemble(
                    (key.ljust(18), "$text-accent"), binding.description.ljust(20), (binding.id or "", "dim")
                )
            )
        lines += [
            Content(),
            Content(
                "Up and Down go through what was asked before; @PATH attaches a text file; Tab takes what is offered."
            ),
        ]
        lines.append(Content("With a message chosen (Ctrl+Up), the letters beside “message.” above work on it."))
        return lines
