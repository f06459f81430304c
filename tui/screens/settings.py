"""A form for how answers are made."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, Static

from k2lite.events import EngineInfo
from k2lite.safe_text import one_line
from quant.errors import K2Error
from tui.conversation import ChatSettings
from tui.setting_values import SETTING_NAMES, changed_settings, default_text, value_text, without_effect


class SettingsScreen(ModalScreen[ChatSettings | None]):
    """Gives back the changed settings, None when they shall stay. An empty field means the model's own."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Leave as it was"),
        Binding("ctrl+s,f4", "keep", "Keep", key_display="^s"),
        Binding("down", "app.focus_next", "Next", show=False),
        Binding("up", "app.focus_previous", "Previous", show=False),
    ]

    def __init__(self, settings: ChatSettings, info: EngineInfo | None) -> None:
        super().__init__()
        self._settings, self._info = settings, info

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large"):
            yield Static("Settings of this chat, from the next answer on. Empty: the model's own.", markup=False)
            with VerticalScroll(can_focus=False):
                for name in SETTING_NAMES:
                    with Horizontal(classes="field"):
                        yield Label(name.replace("_", " "), markup=False)
                        yield Input(
                            value_text(self._settings, name),
                            placeholder=default_text(self._info, self._settings, name),
                            id=f"set-{name}",
                            compact=True,
                        )
            yield Static(id="problem", markup=False)
            yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(f"#set-{SETTING_NAMES[0]}").focus()

    def on_input_changed(self) -> None:
        """Say at once what is wrong, or has no effect."""
        try:
            notes = without_effect(self._read(), self._info)
        except K2Error as error:
            notes = [str(error)]
        self.query_one("#problem", Static).update(one_line(" · ".join(notes)))

    def on_input_submitted(self) -> None:
        self.action_keep()

    def action_keep(self) -> None:
        try:
            self.dismiss(self._read())
        except K2Error as error:
            self.query_one("#problem", Static).update(one_line(str(error)))

    def action_leave(self) -> None:
        self.dismiss(None)

    def _read(self) -> ChatSettings:
        settings = self._settings
        for name in SETTING_NAMES:
            text = self.query_one(f"#set-{name}", Input).value
            if text != value_text(self._settings, name):
                settings = changed_settings(settings, name, text.strip())
        return settings
