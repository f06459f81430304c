"""The library of prompts."""

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from k2lite.safe_text import one_line, printable
from tui.prompt_library import LibraryPrompt, library
from tui.views.plain_text import shortened


class PromptsScreen(ModalScreen[LibraryPrompt | None]):
    """Gives back the chosen prompt."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Back")]

    def __init__(self, own: Mapping[str, str]) -> None:
        super().__init__()
        self._prompts = library(own)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large"):
            yield Static("Prompts: Enter puts one into the box, or sets it as system prompt", markup=False)
            yield OptionList(*(Option(_line(prompt)) for prompt in self._prompts))
            yield Static(id="preview", markup=False)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        text = self._prompts[event.option_index].text
        self.query_one("#preview", Static).update(printable(shortened(text)))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._prompts[event.option_index])

    def action_leave(self) -> None:
        self.dismiss(None)


def _line(prompt: LibraryPrompt) -> Content:
    return Content.assemble(one_line(prompt.name), ("  system prompt" if prompt.system else "", "dim"))
