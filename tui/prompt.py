"""The box in which the user writes."""

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Key
from textual.message import Message
from textual.widgets import OptionList, TextArea
from textual.widgets.option_list import Option

from k2lite.safe_text import one_line
from tui.completion import Offer
from tui.history import History

_NEW_LINE = ("ctrl+j", "shift+enter")


class Offers(OptionList, can_focus=False):
    """The list above the box: commands or files that fit what is written."""

    def __init__(self) -> None:
        super().__init__(id="offers", compact=True)
        self.offers: list[Offer] = []

    def show(self, offers: list[Offer]) -> None:
        """Offer these, the first one chosen; hidden when there are none."""
        self.offers = offers
        self.clear_options()
        width = max((len(offer.label) for offer in offers), default=0)
        self.add_options(
            Option(Content(one_line(offer.label).ljust(min(width, 40)) + "  " + one_line(offer.help)))
            for offer in offers
        )
        self.display = bool(offers)
        self.highlighted = 0 if offers else None

    @property
    def chosen(self) -> Offer | None:
        return self.offers[self.highlighted] if self.offers and self.highlighted is not None else None


class Prompt(TextArea):
    """Several lines of text; Enter sends them, Ctrl+J (or Shift+Enter where the terminal tells it) breaks the line.

    `send` is given the text and says whether it takes it; the box is emptied then. Up and down go through what was
    sent before, at the first and the last line. While `offers` shows something, Tab takes it.
    """

    class Written(Message):
        """The text is another one now."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", id="prompt.send"),
        Binding("ctrl+j", "newline", "Line", key_display="^j", id="prompt.newline"),
    ]

    def __init__(self, send: Callable[[str], bool], offers: Offers, earlier: History) -> None:
        super().__init__(
            placeholder="Ask something, or / for commands", compact=True, highlight_cursor_line=False, soft_wrap=True
        )
        self._send = send
        self._offers = offers
        self.earlier = earlier

    def on_key(self, event: Key) -> None:
        """Handles keys in the order of typing; a binding with priority would overtake the letters before it."""
        handled = {
            "enter": self._enter,
            "tab": self._take_offer,
            "up": lambda: self._move(-1),
            "down": lambda: self._move(1),
            "escape": self._close_offers,
        }
        if event.key in _NEW_LINE:
            self.action_newline()
        elif event.key not in handled or not handled[event.key]():
            return
        event.prevent_default()
        event.stop()

    def _on_text_area_changed(self) -> None:
        self.post_message(self.Written())

    def action_submit(self) -> None:
        if self.text.strip() and self._send(self.text):
            self.earlier.add(self.text)
            self.clear()

    def action_newline(self) -> None:
        self.insert("\n")

    def write(self, text: str) -> None:
        """Put `text` in, the cursor behind it."""
        self.text = text
        self.move_cursor(self.document.end)

    def _enter(self) -> bool:
        self.action_submit()
        return True

    def _take_offer(self) -> bool:
        offer = self._offers.chosen
        if offer is None:
            return False
        self.write(offer.text)
        return True

    def _close_offers(self) -> bool:
        shown = bool(self._offers.offers)
        self._offers.show([])
        return shown

    def _move(self, step: int) -> bool:
        if self._offers.offers:
            (self._offers.action_cursor_down if step > 0 else self._offers.action_cursor_up)()
            return True
        row = self.cursor_location[0]
        if step < 0 and row == 0:
            text = self.earlier.back(self.text)
        elif step > 0 and row == self.document.line_count - 1:
            text = self.earlier.forth()
        else:
            return False
        if text is not None:
            self.write(text)
        return text is not None
