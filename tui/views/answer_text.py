"""The Markdown of an answer, in several widgets one below the other: what stands is not laid out again."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets._markdown import MarkdownFence, MarkdownHeader, MarkdownParagraph

from tui.views.flat_list import FlatMarkdown
from tui.views.settled import closes_fence, fence_marker

# Adding to a widget costs a layout of all its blocks, 0.1 ms each, and its last block is made anew.
_BLOCKS = 25
_CODE_LINES = 50


class AnswerText(Vertical):
    """Takes settled text with `append`. Goes on in a new widget at the end of a paragraph once there are many blocks,
    and at the end of a line once there is much code."""

    DEFAULT_CSS = """
    AnswerText {
        height: auto;
        MarkdownFence.goes-on { margin: 1 0 0 0; }
        MarkdownFence.goes-on > Label { padding: 1 2 0 2; }
        MarkdownFence.begun-above { margin: 0 0 1 0; }
        MarkdownFence.begun-above > Label { padding: 0 2 1 2; }
        MarkdownFence.begun-above.goes-on { margin: 0; }
        MarkdownFence.begun-above.goes-on > Label { padding: 0 2; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []

    def compose(self) -> ComposeResult:
        yield FlatMarkdown()

    @property
    def parts(self) -> list[FlatMarkdown]:
        return list(self.query_children(FlatMarkdown))

    @property
    def source(self) -> str:
        """All of the text."""
        return "".join(self._pieces)

    async def append(self, text: str) -> None:
        """Add `text`, which no later text changes the shape of."""
        self._pieces.append(text)
        last = self.parts[-1]
        opening = _long_open_fence(last)
        first_line = text.partition("\n")[0]
        if opening and first_line.strip() and not closes_fence(first_line, fence_marker(opening)):
            await self._go_on_in_fence(last, opening, text)
        elif len(last.children) >= _BLOCKS:
            if not _is_complete(last):
                ending, blank, text = text.partition("\n\n")
                await last.append(ending + blank)
            if text:
                await (await self._next_part() if _is_complete(last) else last).append(text)
        else:
            await last.append(text)

    async def _next_part(self) -> FlatMarkdown:
        part = FlatMarkdown()
        await self.mount(part)
        return part

    async def _go_on_in_fence(self, last: FlatMarkdown, opening: str, text: str) -> None:
        """Two blocks of code that look like one."""
        last.children[-1].add_class("goes-on")
        part = await self._next_part()
        await part.append(opening + text)
        part.children[0].add_class("begun-above")


def _is_complete(markdown: FlatMarkdown) -> bool:
    """Whether what follows is a block of its own wherever it stands, which is certain behind a paragraph."""
    return markdown.source.endswith("\n\n") and isinstance(markdown.children[-1], MarkdownParagraph | MarkdownHeader)


def _long_open_fence(markdown: FlatMarkdown) -> str:
    """The first line of the code that goes on at the end, when there is much of it already; else nothing."""
    block = markdown.children[-1] if markdown.children else None
    if not isinstance(block, MarkdownFence) or not markdown.source.endswith("\n"):
        return ""
    opening, *code = markdown.source.splitlines(keepends=True)[block.source_range[0] :]
    marker = fence_marker(opening)
    if len(code) < _CODE_LINES or not code[-1].strip():  # a blank line at the end of a block is not drawn
        return ""
    if not marker or any(closes_fence(line, marker) for line in code):
        return ""
    return opening
