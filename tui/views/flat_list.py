"""Markdown whose lists are one widget each. Textual's own have four an item, and take 0.3 s to mount at forty items."""

from collections.abc import Iterator
from typing import ClassVar

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.content import Content
from textual.geometry import Size
from textual.widgets import Markdown
from textual.widgets._markdown import (
    MarkdownBlock,
    MarkdownBulletList,
    MarkdownList,
    MarkdownListItem,
    MarkdownOrderedList,
    MarkdownParagraph,
)

Item = tuple[str, Content]  # what stands before the first line, and the text


def markdown_without_html() -> MarkdownIt:
    """Textual shows no HTML and would drop it: with HTML off, tags are text like any other."""
    return MarkdownIt("gfm-like", {"html": False})


class FlatList(MarkdownList):
    """A list that is wrapped and indented as one text. One that holds code, quotes or tables is mounted as usual."""

    DEFAULT_CSS = """
    FlatList { margin: 0 0 1 0; padding: 0; }
    """

    ORDERED: ClassVar[bool] = False
    _items: tuple[Item, ...] = ()
    _wrapped: tuple[int, Content] | None = None

    def compose(self) -> ComposeResult:
        if _is_flat(self._blocks):
            self._items = tuple(_items(self._blocks, self.ORDERED, 0))
            self._blocks.clear()
            return
        usual: type[MarkdownList] = MarkdownOrderedList if self.ORDERED else MarkdownBulletList
        yield from usual.compose(self)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if not self._items:
            return super().get_content_height(container, viewport, width)
        return self._text(width).plain.count("\n") + 1

    def render(self) -> Content:
        return self._text(self.content_size.width) if self._items else Content()

    def _text(self, width: int) -> Content:
        if self._wrapped is None or self._wrapped[0] != width:
            lines = [line for item in self._items for line in _hanging(item, width)]
            self._wrapped = (width, Content("\n").join(lines))
        return self._wrapped[1]


class FlatBulletList(FlatList):
    """The bulleted one."""


class FlatOrderedList(FlatList):
    """The numbered one."""

    ORDERED = True


class FlatMarkdown(Markdown):
    """Markdown as models write it: no HTML, links opened by the app, lists that are cheap."""

    BLOCKS = Markdown.BLOCKS | {  # as the base class has it
        "bullet_list_open": FlatBulletList,
        "ordered_list_open": FlatOrderedList,
    }

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text, parser_factory=markdown_without_html, open_links=False)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Of the blocks alone: in a container that grows with every line, what was found out before would be lost."""
        return super().get_content_height(Size(container.width, 0), viewport, width)


def _is_flat(blocks: list[MarkdownBlock]) -> bool:
    return all(
        isinstance(block, MarkdownParagraph)
        or (isinstance(block, MarkdownListItem | MarkdownList) and _is_flat(block._blocks))
        for block in blocks
    )


def _items(blocks: list[MarkdownBlock], ordered: bool, depth: int) -> Iterator[Item]:
    """The lines of a list before they are wrapped, those of lists inside it further to the right."""
    items = [block for block in blocks if isinstance(block, MarkdownListItem)]
    start = int(items[0].bullet) if ordered and items and items[0].bullet.isdecimal() else 1
    marks = [f"{number}. " if ordered else item.bullet for number, item in enumerate(items, start)]
    width = max(map(len, marks), default=0)
    indent = " " * depth
    for mark, item in zip(marks, items, strict=True):
        before = indent + mark.rjust(width)
        for block in item._blocks:
            if isinstance(block, MarkdownList):
                yield from _items(block._blocks, isinstance(block, FlatOrderedList), depth + width)
            else:
                yield before, block._content
                before = indent + " " * width
        if not item._blocks:
            yield before, Content()


def _hanging(item: Item, width: int) -> Iterator[Content]:
    mark, text = item
    room = max(8, width - len(mark))
    for number, line in enumerate(text.wrap(room) or [Content()]):
        before = Content.styled(mark, "$text-primary") if number == 0 else Content(" " * len(mark))
        yield before + line
