"""One answer on the screen: thinking folded away, Markdown that settles as it streams, and what is still open."""

import asyncio

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Collapsible, Markdown, Static

from k2lite.events import Channel
from k2lite.safe_text import printable
from tui.pacing import SHORTEST_PAUSE_S, Pacer
from tui.settled import SettledText


def markdown_without_html() -> MarkdownIt:
    """Textual shows no HTML and would drop it: with HTML off, tags are text like any other."""
    return MarkdownIt("gfm-like", {"html": False})


class Answer(Vertical):
    """Takes text by channel with `write`; shows it by and by, as often as the screen can bear. Ends with `finish`."""

    def __init__(self) -> None:
        super().__init__()
        self._settled = SettledText()
        self._pacer = Pacer()
        self._flushing = asyncio.Lock()
        self._ready = ""
        self._asides: dict[Channel, str] = {"think": "", "tool": ""}
        self._changed: set[Channel] = set()

    def compose(self) -> ComposeResult:
        with Collapsible(title="Thinking", collapsed=True, id="think", classes="aside"):
            yield Static(markup=False, classes="text")
        yield Markdown(parser_factory=markdown_without_html, open_links=False)
        yield Static(markup=False, id="tail")
        with Collapsible(title="Tool call", collapsed=False, id="tool", classes="aside"):
            yield Static(markup=False, classes="text")

    def on_mount(self) -> None:
        self._timer = self.set_interval(SHORTEST_PAUSE_S, self._flush_when_due)

    @property
    def is_empty(self) -> bool:
        """Whether no text has come yet."""
        return not (self.markdown.source or self._ready or self._settled.tail or any(self._asides.values()))

    @property
    def markdown(self) -> Markdown:
        return self.query_one(Markdown)

    def write(self, channel: Channel, text: str) -> None:
        """Add `text`; it is shown when it is time to."""
        if not text:
            return
        self._changed.add(channel)
        if channel == "answer":
            self._ready += self._settled.push(printable(text))
        else:
            self._asides[channel] += printable(text)

    async def finish(self) -> None:
        """Nothing more will come: show all of it."""
        self._timer.stop()
        self._ready += self._settled.finish()
        self._changed.add("answer")
        await self._flush()

    async def _flush_when_due(self) -> None:
        if self._changed and self._pacer.due():
            await self._flush()

    async def _flush(self) -> None:
        async with self._flushing:
            started = self._pacer.now()
            changed, self._changed = self._changed, set()
            if "answer" in changed:
                ready, self._ready = self._ready, ""
                tail = self.query_one("#tail", Static)
                tail.update(self._settled.tail)
                tail.display = bool(self._settled.tail)
                if ready:
                    await self.markdown.append(ready)
            for channel in changed - {"answer"}:
                aside = self.query_one(f"#{channel}", Collapsible)
                aside.add_class("used")
                aside.query_one(".text", Static).update(self._asides[channel])
            self._pacer.flushed(started)
