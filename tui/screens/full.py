"""The question what to do when the conversation no longer fits."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from k2lite.safe_text import one_line
from tui.turn import WhenFull

_CHOICES: tuple[tuple[WhenFull, str], ...] = (
    ("summarise", "Summarise: the model writes down what was said, and goes on with that"),
    ("drop", "Drop the oldest: they stay on the screen and in the file, but are no longer sent"),
    ("stop", "Stop: the question goes back into the box"),
)


class FullScreen(ModalScreen[WhenFull]):
    """Gives back one of the three ways; Escape is the third."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "choose(0)", "Summarise"),
        Binding("d", "choose(1)", "Drop"),
        Binding("escape,n", "choose(2)", "Stop"),
    ]

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("The context is full", classes="heading", markup=False)
            yield Static(one_line(self._reason), markup=False, classes="reason")
            yield OptionList(*(Option(Content(text), id=name) for name, text in _CHOICES), compact=True)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.action_choose(event.option_index)

    def action_choose(self, number: int) -> None:
        self.dismiss(_CHOICES[number][0])
