"""The conversation on the screen and its copy in the database, kept the same."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from quant.errors import K2Error
from tui.conversation import ChatSettings, Conversation, Node
from tui.sessions.records import Entry
from tui.sessions.store import SessionStore
from tui.sessions.thread import SessionThread


class OpenChat:
    """Every change goes to the conversation at once and to the database behind it.

    A database that cannot be written is told about once through `complain`; the conversation goes on without it.
    """

    def __init__(self, thread: SessionThread, settings: ChatSettings, complain: Callable[[K2Error], None]) -> None:
        self._thread = thread
        self._complain = complain
        self._complained = False
        self._saving: set[Node] = set()
        self.conversation = Conversation(settings)
        self.chat_id: int | None = None
        self.title = ""
        self.model = ""

    @property
    def settings(self) -> ChatSettings:
        return self.conversation.settings

    async def change_settings(self, **changes: Any) -> None:
        """What the next answers are asked with, and the chat from now on when it is opened again."""
        self.conversation.settings = replace(self.settings, **changes)
        if self.chat_id is not None:
            await self._store(SessionStore.change_settings, self.chat_id, self.model, plain_settings(self.settings))

    def start_anew(self) -> None:
        """An empty conversation with the same settings. It is saved once something is said in it."""
        self.conversation.clear()
        self.chat_id, self.title = None, ""

    async def resume(self, chat_id: int) -> None:
        """Go on with a saved chat. Raises SessionError."""
        chat = await self._thread.call(SessionStore.chat, chat_id)
        stored = await self._thread.call(SessionStore.entries, chat_id)
        settings = settings_from(chat.settings)
        self.conversation = Conversation.restored(settings, stored, chat.tip_id)
        self.chat_id, self.title, self.model = chat.id, chat.title, chat.model
        for node in self.conversation.path():
            if node.entry.finish is None:  # the program died over it
                await self.update(node, replace(node.entry, finish="interrupted"))

    async def add(self, entry: Entry, parent: Node | None = None) -> Node:
        """A new message behind `parent`, None for the end of what is shown."""
        node = self.conversation.add(entry, parent)
        if self.chat_id is None and self._thread.available:
            self.title = self.title or title_of(node.typed)
            self.chat_id = await self._store(
                SessionStore.create_chat, self.title, self.model, plain_settings(self.settings)
            )
        if self.chat_id is not None:
            assert node.parent is not None, "what was added has a parent"
            node.row_id = await self._store(SessionStore.add, self.chat_id, node.parent.row_id, entry)
        return node

    async def update(self, node: Node, entry: Entry) -> None:
        """What a message has become."""
        node.entry = entry
        if node.row_id is not None:
            await self._store(SessionStore.update, node.row_id, entry)

    def save_draft(self, node: Node, entry: Entry) -> bool:
        """The same without waiting, for an answer under way; False while its last draft is still being written."""
        node.entry = entry
        if node in self._saving or node.row_id is None:
            return False
        self._saving.add(node)
        future = self._thread.submit(SessionStore.update, node.row_id, entry)
        future.add_done_callback(lambda _: self._saving.discard(node))
        return True

    async def remove(self, node: Node) -> None:
        """Take a message back, with all that follows it."""
        self.conversation.remove(node)
        if node.row_id is not None:
            await self._store(SessionStore.remove, node.row_id)

    async def show(self, node: Node) -> None:
        """Show the branch through `node`."""
        self.conversation.show(node)
        if self.chat_id is not None:
            await self._store(SessionStore.set_tip, self.chat_id, self.conversation.tip.row_id)

    async def rename(self, title: str) -> None:
        self.title = title
        if self.chat_id is not None:
            await self._store(SessionStore.rename, self.chat_id, title)

    async def _store(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await self._thread.call(method, *arguments)
        except K2Error as error:
            if not self._complained and self._thread.available:
                self._complained = True
                self._complain(error)
            return None


def title_of(text: str) -> str:
    """A chat's name until it gets another one: the first line of its first question."""
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "untitled")


def plain_settings(settings: ChatSettings) -> dict[str, Any]:
    """As they are saved."""
    return asdict(replace(settings, sampling=dict(settings.sampling)))


def settings_from(fields: Mapping[str, Any]) -> ChatSettings:
    """Saved settings; what an edited file holds beyond the known ones is left out."""
    known = {name: fields[name] for name in ("system", "thinking", "max_tokens", "seed") if name in fields}
    sampling = fields.get("sampling")
    with suppress(TypeError, ValueError):
        return ChatSettings(**known, sampling=dict(sampling or {}))
    return ChatSettings(**known)
