"""One answer on the screen: thinking folded away, Markdown that settles as it streams, and what is still open."""

import asyncio

from textual import on
from textual.app import ComposeResult
from textual.widgets import Collapsible, Static

from k2lite.events import Channel
from k2lite.safe_text import printable
from tui.conversation import Node
from tui.pacing import SHORTEST_PAUSE_S, Pacer
from tui.views.answer_text import AnswerText
from tui.views.message_view import MessageView
from tui.views.plain_text import PlainText
from tui.views.settled import LineBreaker, SettledText

# More at once would hold the keyboard up; what is left over comes with the next flush.
_FLUSH_CHARACTERS = 2000
_BREATH_S = 0.01
_TAIL_CHARACTERS = 4000

_ENDINGS = {
    "length": "cut off: no room left, or the limit is reached",
    "cancelled": "stopped: the next message continues from here",
    "interrupted": "interrupted: the program ended here",
    "error": "ended by an error",
}


class Answer(MessageView):
    """Takes text by channel with `write`; shows it by and by, as often as the screen can bear. Ends with `finish`.

    With a node that has its text already, that is shown and nothing can be written.
    """

    def __init__(self, node: Node | None = None) -> None:
        super().__init__(node)
        self._settled = SettledText()
        self._breaker = LineBreaker()
        self._pacer = Pacer()
        self._flushing = asyncio.Lock()
        self._waiting = ""
        self._ended = False
        self._asides: dict[Channel, str] = {"think": "", "tool": ""}
        self._changed: set[Channel] = set()
        self._shown: dict[Channel, int] = {"think": 0, "tool": 0}

    def compose(self) -> ComposeResult:
        yield self.branches()
        with Collapsible(title="Thinking", collapsed=True, id="think", classes="aside"):
            yield PlainText(classes="text")
        yield AnswerText()
        yield Static(markup=False, id="tail")
        with Collapsible(title="Tool call", collapsed=False, id="tool", classes="aside"):
            yield PlainText(classes="text")
        yield Static(markup=False, classes="ending")

    async def on_mount(self) -> None:
        self.query_one("#tail").display = False
        self._timer = self.set_interval(SHORTEST_PAUSE_S, self._flush_when_due)
        if self.node is not None:
            self.write("think", self.node.message.reasoning)
            self.write("answer", self.node.message.content)
            await self.finish(self.node.entry.finish or "")

    @property
    def text(self) -> AnswerText:
        return self.query_one(AnswerText)

    def write(self, channel: Channel, text: str) -> None:
        """Add `text`; it is shown when it is time to."""
        if not text:
            return
        self._changed.add(channel)
        if channel == "answer":
            self._waiting += text
        else:
            self._asides[channel] += text

    async def finish(self, reason: str = "") -> None:
        """Nothing more will come: show all of it, and how it ended when that was not by itself."""
        self._timer.stop()
        self._ended = True
        self._changed |= {"answer", "think", "tool"}
        while self._changed:
            await self._flush()
            await asyncio.sleep(_BREATH_S if self._changed else 0)
        if self.node is not None and self.node.message.tool_calls:
            self.query_one("#tool").remove_class("used")  # a block with the call itself follows
        ending = self.query_one(".ending", Static)
        ending.update(_ENDINGS.get(reason, ""))
        ending.set_class(reason in _ENDINGS, "used")

    @on(Collapsible.Expanded)
    async def _show_what_was_folded(self, event: Collapsible.Expanded) -> None:
        event.stop()
        channel: Channel = "think" if event.collapsible.id == "think" else "tool"
        while self._shown[channel] < len(self._asides[channel]) and not event.collapsible.collapsed:
            await self._show_aside(channel)
            await asyncio.sleep(_BREATH_S)

    async def _flush_when_due(self) -> None:
        if self._changed and self._pacer.due():
            await self._flush()

    async def _flush(self) -> None:
        async with self._flushing:
            started = self._pacer.now()
            changed, self._changed = self._changed, set()
            if "answer" in changed:
                await self._flush_answer()
            for channel in changed - {"answer"}:
                await self._show_aside(channel)
            self._pacer.flushed(started)

    async def _flush_answer(self) -> None:
        piece, self._waiting = self._waiting[:_FLUSH_CHARACTERS], self._waiting[_FLUSH_CHARACTERS:]
        ready = self._settled.push(self._breaker.push(printable(piece)))
        if self._waiting:
            self._changed.add("answer")
        elif self._ended:
            ready += self._settled.push(self._breaker.finish()) + self._settled.finish()
        tail = self.query_one("#tail", Static)
        tail.update(self._settled.tail[-_TAIL_CHARACTERS:])
        tail.display = bool(self._settled.tail)
        if ready:
            await self.text.append(ready)

    async def _show_aside(self, channel: Channel) -> None:
        """Thinking that is folded is only counted: nobody sees its text."""
        text = self._asides[channel]
        aside = self.query_one(f"#{channel}", Collapsible)
        aside.set_class(bool(text), "used")
        if channel == "think" and text:
            aside.title = f"Thinking ({len(text.split()):,} words)" if len(text) < 100_000 else "Thinking"
        if aside.collapsed:
            return
        new = text[self._shown[channel] : self._shown[channel] + _FLUSH_CHARACTERS]
        self._shown[channel] += len(new)
        if self._shown[channel] < len(text):
            self._changed.add(channel)
        if new:
            await aside.query_one(PlainText).append(new)
