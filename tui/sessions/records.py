"""What is kept of a conversation: small frozen records, as they lie in the database and in an exported file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from k2lite.events import Message

Kind = Literal["message", "cut"]


@dataclass(frozen=True)
class Entry:
    """One message of a conversation, or a cut: from there on only a part of what was before is sent to the model.

    `finish` is None while an answer is being written, and for good when the program died over it. `extra` holds what
    the screen wants to know again: what of a question was typed ("shown") and what attached, the counts of an answer,
    how many messages before a cut are still sent ("kept").
    """

    message: Message
    kind: Kind = "message"
    finish: str | None = "stop"
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredEntry:
    """An entry with its place in the tree. `id` is the database's."""

    id: int
    parent_id: int | None
    entry: Entry
    created_at: float


@dataclass(frozen=True)
class Chat:
    """A conversation as the list shows it. Times are seconds since 1970; `tip_id` ends the branch shown last."""

    id: int
    title: str
    model: str
    settings: Mapping[str, Any]
    tip_id: int | None
    created_at: float
    changed_at: float
    message_count: int = 0


@dataclass(frozen=True)
class Hit:
    """A message that has been searched for, with the piece of it to show and where in that the words are."""

    chat_id: int
    chat_title: str
    message_id: int
    role: str
    created_at: float
    excerpt: str
    spans: tuple[tuple[int, int], ...]
