"""An answer under way: what has come of it, on the screen and in the database."""

import time
from dataclasses import dataclass, field

from k2lite.events import Finished, Message, Token
from tui.conversation import Node, answer_entry
from tui.open_chat import OpenChat
from tui.pacing import RateMeter
from tui.sessions.records import Entry
from tui.views.answer import Answer


@dataclass
class LiveAnswer:
    """Is in the conversation from its first letter on, and saved by whoever calls `save` twice a second."""

    chat: OpenChat
    view: Answer
    meter: RateMeter = field(default_factory=RateMeter)
    prompt_tokens: int = 0
    node: Node | None = None
    first_token_s: float | None = None
    started: float = field(default_factory=time.monotonic)
    _texts: dict[str, list[str]] = field(default_factory=lambda: {"think": [], "answer": [], "tool": []})
    _unsaved: bool = False

    @property
    def used_tokens(self) -> int:
        """How full the context is by now."""
        return self.prompt_tokens + self.meter.count

    async def take(self, token: Token) -> None:
        """One more token."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.started
        if not token.text:
            return
        self.view.write(token.channel, token.text)
        self._texts[token.channel].append(token.text)
        self._unsaved = True
        if self.node is None:
            self.node = await self.chat.add(self._entry(None))
            self.view.node = self.node
            self._unsaved = False

    def save(self) -> None:
        """Put what has come since the last time on its way into the database."""
        if self.node is not None and self._unsaved:
            self._unsaved = not self.chat.save_draft(self.node, self._entry(None))

    async def finish(self, finished: Finished) -> Node | None:
        """The answer as the engine tells it; None when there is nothing to keep."""
        if self.node is None and not (finished.text or finished.reasoning or finished.tool_calls):
            return None
        await self._end(answer_entry(finished))
        return self.node

    async def fail(self) -> Node | None:
        """The engine has died over it: what has come is kept."""
        if self.node is not None:
            await self._end(self._entry("error"))
        return self.node

    async def _end(self, entry: Entry) -> None:
        self._unsaved = False
        if self.node is None:
            self.node = await self.chat.add(entry)
            self.view.node = self.node
        else:
            await self.chat.update(self.node, entry)

    def _entry(self, finish: str | None) -> Entry:
        text, reasoning = ("".join(self._texts[channel]) for channel in ("answer", "think"))
        return Entry(Message("assistant", text, reasoning), finish=finish)
