"""The conversation on the screen: a view for every message of the shown branch, the last ones first."""

from textual.containers import VerticalScroll
from textual.widget import Widget

from k2lite.events import ToolCall
from tui.conversation import Node
from tui.views.answer import Answer
from tui.views.message_view import MessageView
from tui.views.notice import Cut, EarlierMessages, Notice
from tui.views.question import Question
from tui.views.tool_block import ToolBlock

SHOWN_AT_FIRST = 30
_SHOWN_MORE = 20


class MessageLog(VerticalScroll, can_focus=False):
    """Stays at the end while text comes, unless the user has scrolled away. Mounts a few messages at a time."""

    def __init__(self) -> None:
        super().__init__(id="log")
        self._hidden: list[Node] = []

    def on_mount(self) -> None:
        self.anchor()

    async def show_branch(self, path: list[Node], around: Node | None = None) -> None:
        """Show `path`; what of it is on the screen already stays as it is. At least from `around` on it is shown."""
        standing = list(self.children)
        kept = 0
        if not self._hidden:
            kept = _common(standing, path)
        elif path[: len(self._hidden)] == self._hidden and standing:
            kept = _common(standing[1:], path[len(self._hidden) :])
            if kept:
                await self._replace(standing[1 + kept :], path[len(self._hidden) + kept :])
                return
        if kept:
            await self._replace(standing[kept:], path[kept:])
            return
        shown = SHOWN_AT_FIRST if around is None else max(SHOWN_AT_FIRST, len(path) - path.index(around) + 2)
        self._hidden = path[:-shown] if len(path) > shown else []
        await self._replace(standing, path[len(self._hidden) :])
        if self._hidden:
            await self.mount(EarlierMessages(len(self._hidden)), before=0)
        self.anchor()

    async def show_branch_and_news(self, path: list[Node]) -> None:
        """The same when something has just gone wrong: the newest notices are left at the end."""
        news: list[tuple[str, str]] = []
        for widget in reversed(self.children):
            if not isinstance(widget, Notice):
                break
            news.insert(0, (widget.text, widget.kind))
        await self.show_branch(path)
        for text, kind in news:
            await self.mount(Notice(text, kind))

    async def show_earlier(self) -> None:
        """Some of the messages that are not shown yet, above those that are."""
        for row in self.query(EarlierMessages):
            await row.remove()
        begin = max(0, len(self._hidden) - _SHOWN_MORE)
        more, self._hidden = self._hidden[begin:], self._hidden[:begin]
        before = self.children[0] if self.children else None
        for node in more:
            await self.mount(view_of(node), before=before)
        if self._hidden:
            await self.mount(EarlierMessages(len(self._hidden)), before=0)

    async def add(self, widget: Widget) -> None:
        """One more thing at the end."""
        await self.mount(widget)

    def view(self, node: Node) -> MessageView | None:
        """The view of a message, if it is on the screen."""
        return next((view for view in self.query(MessageView) if view.node is node), None)

    def neighbour(self, view: MessageView | None, step: int) -> MessageView | None:
        """The message before or behind `view`; without one the last. None when there is no such."""
        views = list(self.query(MessageView))
        if view is None or view not in views:
            return views[-1] if views else None
        place = views.index(view) + step
        return views[place] if 0 <= place < len(views) else None

    async def _replace(self, old: list[Widget], path: list[Node]) -> None:
        for widget in old:
            await widget.remove()
        for node in path:
            await self.mount(view_of(node))
        for view in self.query(MessageView):
            view.refresh_branches()


def view_of(node: Node) -> MessageView:
    """What a message looks like."""
    if node.entry.kind == "cut":
        return Cut(node)
    if node.message.role == "tool":
        return ToolBlock(_call_of(node), node)
    return Answer(node) if node.message.role == "assistant" else Question(node)


def _call_of(node: Node) -> ToolCall:
    """The call that a result belongs to."""
    message, above = node.message, node.parent
    while above is not None:
        for call in above.message.tool_calls:
            if call.id == message.tool_call_id:
                return call
        above = above.parent
    return ToolCall(message.tool_call_id, message.name, "")


def _common(standing: list[Widget], path: list[Node]) -> int:
    """How many of the widgets show the beginning of `path` already."""
    for place, (widget, node) in enumerate(zip(standing, path, strict=False)):
        if not isinstance(widget, MessageView) or widget.node is not node:
            return place
    return min(len(standing), len(path))
