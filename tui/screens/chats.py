"""All chats: open, search, rename, delete, undo."""

import time
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from k2lite.safe_text import one_line
from quant.errors import K2Error
from tui.sessions.records import Chat, Hit
from tui.sessions.store import SessionStore
from tui.sessions.thread import SessionThread

_ROLES = {"user": "you", "assistant": "answer", "tool": "tool", "system": "system"}


@dataclass(frozen=True)
class ChosenChat:
    """A chat to go on with, at a message that was searched for or at its end."""

    chat_id: int
    message_id: int | None = None


class ChatsScreen(ModalScreen[ChosenChat | None]):
    """The list of chats; what is written above it searches their titles and everything that was said in them.

    `deleted` is the list of what was deleted, shared with whoever else may undo that.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("down", "to_list", "List", show=False),
        Binding("f2", "rename", "Rename"),
        Binding("delete,ctrl+d", "delete", "Delete", key_display="Del/^d"),
        Binding("ctrl+z", "undo", "Undo", priority=True),
    ]

    def __init__(self, sessions: SessionThread, words: str, deleted: list[int]) -> None:
        super().__init__()
        self._sessions, self._words, self._deleted = sessions, words, deleted
        self._chosen: list[ChosenChat] = []
        self._titles: dict[int, str] = {}
        self._renaming: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large"):
            yield Input(self._words, placeholder="search in everything that was said", id="words")
            yield OptionList(id="found")
            yield Static(id="summary", markup=False)
            yield Footer(show_command_palette=False)

    async def on_mount(self) -> None:
        await self._search()
        self.query_one("#words", Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._renaming is None:
            self.run_worker(self._search(), exclusive=True)

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._renaming is not None:
            await self._end_renaming(event.value.strip())
        else:
            self._open(self._highlighted or 0)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._open(event.option_index)

    def action_leave(self) -> None:
        if self._renaming is not None:
            self._renaming = None
            self._prepare_input("", "search in everything that was said")
            return
        self.dismiss(None)

    def action_to_list(self) -> None:
        self.query_one(OptionList).focus()

    def action_rename(self) -> None:
        if (chosen := self._current) is not None:
            self._renaming = chosen.chat_id
            self._prepare_input(self._titles[chosen.chat_id], "new name, Enter to keep it")

    async def action_delete(self) -> None:
        if (chosen := self._current) is None:
            return
        await self._sessions.call(SessionStore.delete, chosen.chat_id)
        self._deleted.append(chosen.chat_id)
        await self._search()
        self._say("deleted: Ctrl+Z brings it back")

    async def action_undo(self) -> None:
        if self._deleted:
            await self._sessions.call(SessionStore.restore, self._deleted.pop())
            await self._search()
            self._say("it is back")

    @property
    def _highlighted(self) -> int | None:
        return self.query_one(OptionList).highlighted

    @property
    def _current(self) -> ChosenChat | None:
        place = self._highlighted
        return self._chosen[place] if place is not None and place < len(self._chosen) else None

    def _open(self, place: int) -> None:
        if place < len(self._chosen):
            self.dismiss(self._chosen[place])

    def _say(self, text: str) -> None:
        self.query_one("#summary", Static).update(text)

    def _prepare_input(self, text: str, placeholder: str) -> None:
        field = self.query_one("#words", Input)
        field.placeholder = placeholder
        field.value = text
        field.focus()

    async def _end_renaming(self, title: str) -> None:
        chat_id, self._renaming = self._renaming, None
        if chat_id is not None and title:
            await self._sessions.call(SessionStore.rename, chat_id, title)
        self._prepare_input("", "search in everything that was said")
        await self._search()

    async def _search(self) -> None:
        words = self.query_one("#words", Input).value.strip()
        try:
            chats = await self._sessions.call(SessionStore.chats, title=words)
            hits = await self._sessions.call(SessionStore.search, words) if words else []
        except K2Error as error:
            self._say(one_line(str(error)))
            return
        found = self.query_one(OptionList)
        place = found.highlighted or 0
        found.clear_options()
        self._chosen = [ChosenChat(chat.id) for chat in chats] + [
            ChosenChat(hit.chat_id, hit.message_id) for hit in hits
        ]
        self._titles = {chat.id: chat.title for chat in chats} | {hit.chat_id: hit.chat_title for hit in hits}
        found.add_options([Option(_chat_line(chat)) for chat in chats] + [Option(_hit_lines(hit)) for hit in hits])
        found.highlighted = min(place, len(self._chosen) - 1) if self._chosen else None
        self._say(
            f"{len(chats)} chat(s)" + (f", {len(hits)}{'+' if len(hits) == 50 else ''} message(s)" if words else "")
        )


def _chat_line(chat: Chat) -> Content:
    when = _when(chat.changed_at)
    return Content.assemble(
        one_line(chat.title) or "untitled",
        (f"  #{chat.id} · {chat.message_count} messages · {when} · {one_line(chat.model)}", "dim"),
    )


def _hit_lines(hit: Hit) -> Content:
    excerpt = Content(_safe(hit.excerpt))
    for begin, end in hit.spans:
        excerpt = excerpt.stylize("reverse", begin, end)
    head = f"{_ROLES.get(hit.role, hit.role)} in {one_line(hit.chat_title)} · {_when(hit.created_at)}"
    return Content("\n").join([excerpt, Content.styled(f"  {head}", "dim")])


def _safe(text: str) -> str:
    """Printable, and every character still at its place, for the spans."""
    from k2lite.safe_text import printable

    return "".join(printable(character) or " " for character in text)


def _when(seconds: float) -> str:
    moment, now = time.localtime(seconds), time.localtime()
    same_day = moment[:3] == now[:3]
    return time.strftime("%H:%M" if same_day else "%Y-%m-%d", moment)
