"""Chats and their messages in SQLite. All of it in one thread, the one that opened it."""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2lite.events import Message, ToolCall
from tui.errors import SessionError
from tui.sessions.opening import open_database
from tui.sessions.records import Chat, Entry, Hit, StoredEntry
from tui.sessions.search import search

TITLE_CHARACTERS = 80
_TRASH_KEPT_S = 30 * 24 * 3600

_CHAT_FIELDS = "c.id, c.title, c.model, c.settings_json, c.tip_id, c.created_at, c.changed_at"
_MESSAGE_FIELDS = "id, parent_id, kind, role, text, thinking, calls_json, call_id, name, finish, extra_json, created_at"


class SessionStore:
    """An open database. Every method is one transaction; all raise SessionError when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        opened = open_database(path)
        self._connection, self.notice = opened.connection, opened.notice

    def close(self) -> None:
        self._connection.close()

    # Chats

    def create_chat(self, title: str, model: str, settings: Mapping[str, Any]) -> int:
        """A new, empty chat; returns its id."""
        now = time.time()
        with self._writing() as connection:
            cursor = connection.execute(
                "insert into chat(title, model, settings_json, created_at, changed_at) values (?, ?, ?, ?, ?)",
                (_storable(title)[:TITLE_CHARACTERS], _storable(model), json.dumps(dict(settings)), now, now),
            )
        return _row_id(cursor)

    def chats(self, limit: int = 200, title: str = "") -> list[Chat]:
        """The chats that have messages, the one used last first; `title` keeps those that have it in theirs."""
        with self._reading() as connection:
            rows = connection.execute(
                f"select {_CHAT_FIELDS}, (select count(*) from message m where m.chat_id = c.id) as messages "
                "from chat c where c.deleted_at is null and messages > 0 and instr(lower(c.title), lower(?)) "
                "order by c.changed_at desc, c.id desc limit ?",
                (title, limit),
            ).fetchall()
        return [_chat(row) for row in rows]

    def chat(self, chat_id: int) -> Chat:
        """One chat. Raises SessionError when there is none of that number."""
        with self._reading() as connection:
            row = connection.execute(
                f"select {_CHAT_FIELDS}, (select count(*) from message m where m.chat_id = c.id) "
                "from chat c where c.id = ? and c.deleted_at is null",
                (chat_id,),
            ).fetchone()
        if row is None:
            raise SessionError(f"there is no chat {chat_id}: the list of chats shows those that are there")
        return _chat(row)

    def rename(self, chat_id: int, title: str) -> None:
        with self._writing() as connection:
            connection.execute("update chat set title = ? where id = ?", (_storable(title)[:TITLE_CHARACTERS], chat_id))

    def change_settings(self, chat_id: int, model: str, settings: Mapping[str, Any]) -> None:
        with self._writing() as connection:
            connection.execute(
                "update chat set model = ?, settings_json = ? where id = ?",
                (_storable(model), json.dumps(dict(settings)), chat_id),
            )

    def delete(self, chat_id: int) -> None:
        """Out of the list and the search; `restore` brings it back for thirty days."""
        with self._writing() as connection:
            connection.execute("update chat set deleted_at = ? where id = ?", (time.time(), chat_id))

    def restore(self, chat_id: int) -> None:
        with self._writing() as connection:
            connection.execute("update chat set deleted_at = null where id = ?", (chat_id,))

    def empty_trash(self, older_than_s: float = _TRASH_KEPT_S) -> int:
        """Forget what was deleted that long ago; returns how many chats that were."""
        with self._writing() as connection:
            cursor = connection.execute("delete from chat where deleted_at < ?", (time.time() - older_than_s,))
        return cursor.rowcount

    # Messages

    def add(self, chat_id: int, parent_id: int | None, entry: Entry) -> int:
        """A new message behind `parent_id`, which is then the end of the chat; returns its id."""
        now = time.time()
        with self._writing() as connection:
            cursor = connection.execute(
                "insert into message(chat_id, parent_id, kind, role, text, thinking, calls_json, call_id, name, finish,"
                " extra_json, created_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (chat_id, parent_id, entry.kind, entry.message.role, *_columns(entry), now),
            )
            connection.execute(
                "update chat set tip_id = ?, changed_at = ? where id = ?", (_row_id(cursor), now, chat_id)
            )
        return _row_id(cursor)

    def update(self, message_id: int, entry: Entry) -> None:
        """What a message has become."""
        with self._writing() as connection:
            connection.execute(
                "update message set text = ?, thinking = ?, calls_json = ?, call_id = ?, name = ?, finish = ?, "
                "extra_json = ? where id = ?",
                (*_columns(entry), message_id),
            )

    def remove(self, message_id: int) -> None:
        """Take a message away, with all that follows it; its parent is the end of the chat then."""
        with self._writing() as connection:
            connection.execute(
                "update chat set tip_id = (select parent_id from message where id = ?) "
                "where id = (select chat_id from message where id = ?)",
                (message_id, message_id),
            )
            # One statement for the whole branch: a cascade from parent to child ends at a depth of 1,000.
            connection.execute(
                "with recursive branch(id) as (select ? union all "
                "select m.id from message m join branch b on m.parent_id = b.id) "
                "delete from message where id in (select id from branch)",
                (message_id,),
            )

    def set_tip(self, chat_id: int, message_id: int | None) -> None:
        """Remember which branch is shown."""
        with self._writing() as connection:
            connection.execute("update chat set tip_id = ? where id = ?", (message_id, chat_id))

    def entries(self, chat_id: int) -> list[StoredEntry]:
        """All messages of a chat, on all branches, parents before children."""
        with self._reading() as connection:
            rows = connection.execute(
                f"select {_MESSAGE_FIELDS} from message where chat_id = ? order by id", (chat_id,)
            ).fetchall()
        return [_stored_entry(row) for row in rows]

    def questions(self, limit: int = 200) -> list[str]:
        """What was typed last, in all chats, the oldest first, as history for the prompt."""
        with self._reading() as connection:
            rows = connection.execute(
                "select coalesce(json_extract(extra_json, '$.shown'), text) from message "
                "where role = 'user' and kind = 'message' and length(text) < 20000 order by id desc limit ?",
                (limit,),
            ).fetchall()
        return [text for (text,) in reversed(rows)]

    def search(self, words: str, limit: int = 50) -> list[Hit]:
        """Messages of all chats that hold all of the `words`, the newest first."""
        with self._reading() as connection:
            return search(connection, words, limit)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise SessionError(f"the saved conversations in {self.path} cannot be used: {error}") from error


def _columns(entry: Entry) -> tuple[Any, ...]:
    """text, thinking, calls_json, call_id, name, finish, extra_json"""
    message = entry.message
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    texts = (message.content, message.reasoning, json.dumps(calls), message.tool_call_id, message.name)
    return (*map(_storable, texts), entry.finish, json.dumps(dict(entry.extra)))


def _storable(text: str) -> str:
    """SQLite takes no lone surrogates (half of a character, as a torn paste leaves them)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _stored_entry(row: tuple[Any, ...]) -> StoredEntry:
    id_, parent_id, kind, role, text, thinking, calls, call_id, name, finish, extra, created_at = row
    tool_calls = tuple(ToolCall(*call) for call in json.loads(calls))
    message = Message(role, text, thinking, tool_calls, call_id, name)
    return StoredEntry(id_, parent_id, Entry(message, kind, finish, json.loads(extra)), created_at)


def _chat(row: tuple[Any, ...]) -> Chat:
    id_, title, model, settings, tip_id, created_at, changed_at, count = row
    return Chat(id_, title, model, json.loads(settings), tip_id, created_at, changed_at, count)


def _row_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None, "an insert has a row"
    return cursor.lastrowid
