"""What has been said so far, on all its branches, and what the next request is made of. Knows no screen."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from k2lite.events import EngineInfo, Finished, Message, Request
from tui.sessions.records import Entry, StoredEntry


@dataclass(frozen=True)
class ChatSettings:
    """What every answer of the chat is asked with. `sampling` holds the fields that differ from the model's own."""

    system: str | None = None
    thinking: bool | None = None
    max_tokens: int | None = None
    seed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Node:
    """An entry in the tree. `chosen` is the child on the branch that was shown last; `row_id` the database's number."""

    entry: Entry
    parent: "Node | None"
    children: "list[Node]" = field(default_factory=list)
    chosen: "Node | None" = None
    row_id: int | None = None

    @property
    def message(self) -> Message:
        return self.entry.message

    @property
    def siblings(self) -> "list[Node]":
        """This one and its alternatives, in the order in which they came."""
        assert self.parent is not None, "the root is never shown"
        return self.parent.children

    @property
    def typed(self) -> str:
        """What the user wrote, before attached files were put in."""
        return str(self.entry.extra.get("shown", self.message.content))


class Conversation:
    """A tree of messages, one branch of which is shown. Editing and asking again make siblings; nothing is lost."""

    def __init__(self, settings: ChatSettings) -> None:
        self.settings = settings
        self.clear()

    def clear(self) -> None:
        """Forget what was said; the system prompt stays."""
        self._root = Node(Entry(Message("system", "")), None)

    @classmethod
    def restored(cls, settings: ChatSettings, stored: Sequence[StoredEntry], tip_id: int | None) -> "Conversation":
        """A saved conversation; the branch that ends at or leads through `tip_id` is shown."""
        conversation = cls(settings)
        nodes: dict[int, Node] = {}
        for entry in stored:
            parent = conversation._root if entry.parent_id is None else nodes[entry.parent_id]
            node = nodes[entry.id] = conversation.add(entry.entry, parent)
            node.row_id = entry.id
        if tip_id in nodes:
            conversation.show(nodes[tip_id])
        return conversation

    # The branch that is shown

    def path(self) -> list[Node]:
        """The entries of the shown branch, oldest first."""
        return list(self._walk())

    def _walk(self) -> Iterator[Node]:
        node = self._root.chosen
        while node is not None:
            yield node
            node = node.chosen

    @property
    def tip(self) -> Node:
        """Where the next message goes; the root when nothing was said."""
        node = self._root
        while node.chosen is not None:
            node = node.chosen
        return node

    @property
    def messages(self) -> tuple[Message, ...]:
        """What would be sent now, the system prompt first."""
        return self.messages_for(self.path())

    def by_row(self, row_id: int) -> Node | None:
        """The entry with this number in the database, on whatever branch."""
        waiting = list(self._root.children)
        while waiting:
            node = waiting.pop()
            if node.row_id == row_id:
                return node
            waiting += node.children
        return None

    def add(self, entry: Entry, parent: Node | None = None) -> Node:
        """A new entry behind `parent` (None: the end), which is shown from now on."""
        parent = self.tip if parent is None else parent
        node = Node(entry, parent)
        parent.children.append(node)
        parent.chosen = node
        return node

    def remove(self, node: Node) -> None:
        """Take an entry back, with all that follows it."""
        parent = node.parent
        assert parent is not None, "the root cannot be removed"
        parent.children.remove(node)
        if parent.chosen is node:
            parent.chosen = parent.children[-1] if parent.children else None

    def show(self, node: Node) -> None:
        """Show the branch that leads to `node`, and on along what was shown last behind it."""
        while node.parent is not None:
            node.parent.chosen = node
            node = node.parent

    def end_at(self, node: Node) -> None:
        """Make `node` the end of what is shown: what follows it becomes a branch aside."""
        self.show(node)
        node.chosen = None

    # Requests

    def request(self, info: EngineInfo, tools: Iterable[Mapping[str, Any]] = ()) -> Request:
        """The request for an answer to the end of the shown branch."""
        settings = self.settings
        return Request(
            messages=self.messages,
            tools=tuple(dict(tool) for tool in tools),
            thinking=settings.thinking,
            sampling=replace(info.sampling_for(settings.thinking), **settings.sampling),
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )

    def messages_for(self, path: Sequence[Node]) -> tuple[Message, ...]:
        """`path` as it is sent: behind the last cut, with what that keeps and its summary."""
        cut = max((place for place, node in enumerate(path) if node.entry.kind == "cut"), default=None)
        system = self.settings.system or ""
        if cut is None:
            sent = list(path)
        else:
            entry = path[cut].entry
            before = [node for node in path[:cut] if node.entry.kind == "message"]
            kept = int(entry.extra.get("kept", 0))
            sent = [*(before[-kept:] if kept else []), *path[cut + 1 :]]
            if entry.message.content:
                system = f"{system}\n\nWhat was said before, in short: {entry.message.content}".strip()
        first = (Message("system", system),) if system else ()
        return first + tuple(node.message for node in sent)


def answer_entry(finished: Finished) -> Entry:
    """An answer as it is kept."""
    counts = {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "prefill_s": round(finished.prefill_s, 3),
        "decode_s": round(finished.decode_s, 3),
        "seed": finished.seed,
    }
    message = Message("assistant", finished.text, finished.reasoning, finished.tool_calls)
    return Entry(message, finish=finished.reason, extra={"counts": counts})
