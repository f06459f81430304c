"""What the database keeps, and what state its file may be in."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from k2lite.events import Message, ToolCall
from tui.errors import SessionError
from tui.sessions.opening import open_database
from tui.sessions.records import Entry
from tui.sessions.schema import MIGRATIONS, migrate
from tui.sessions.store import SessionStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SessionStore]:
    store = SessionStore(tmp_path / "chats.db")
    yield store
    store.close()


def said(text: str, role: str = "user", finish: str | None = "stop") -> Entry:
    return Entry(Message(role, text), finish=finish)  # type: ignore[arg-type]


def filled(store: SessionStore, *texts: str, title: str = "A chat") -> tuple[int, list[int]]:
    """A chat with one message per text, each behind the one before."""
    chat = store.create_chat(title, "demo", {"system": "Be kind."})
    ids: list[int] = []
    for text in texts:
        ids.append(store.add(chat, ids[-1] if ids else None, said(text)))
    return chat, ids


def test_a_message_comes_back_as_it_was(store: SessionStore) -> None:
    chat = store.create_chat("t", "demo", {})
    call = ToolCall("functions.f:0", "f", '{"a": 1}')
    entry = Entry(Message("assistant", "text", "why", (call,), "", ""), finish="cancelled", extra={"counts": {"a": 1}})
    answer = store.add(chat, None, entry)
    result = Entry(Message("tool", "4", tool_call_id="functions.f:0", name="f"))
    store.add(chat, answer, result)
    assert [stored.entry for stored in store.entries(chat)] == [entry, result]
    assert [stored.parent_id for stored in store.entries(chat)] == [None, answer]


def test_an_update_is_what_comes_back(store: SessionStore) -> None:
    chat, (message,) = filled(store, "draft")
    store.update(message, said("whole", finish="length"))
    assert store.entries(chat)[0].entry == said("whole", finish="length")


def test_the_list_has_what_was_used_last_first_and_no_empty_chats(store: SessionStore) -> None:
    first, _ = filled(store, "a", title="first")
    store.create_chat("empty", "demo", {})
    second, _ = filled(store, "b", title="second")
    assert [chat.id for chat in store.chats()] == [second, first]
    store.add(first, None, said("more"))
    assert [(chat.id, chat.message_count) for chat in store.chats()] == [(first, 2), (second, 1)]
    assert [chat.title for chat in store.chats(title="SEC")] == ["second"]


def test_a_deleted_chat_is_gone_until_it_is_restored(store: SessionStore) -> None:
    chat, _ = filled(store, "needle in here")
    store.delete(chat)
    assert store.chats() == []
    assert store.search("needle") == []
    with pytest.raises(SessionError, match=f"no chat {chat}"):
        store.chat(chat)
    store.restore(chat)
    assert [found.id for found in store.chats()] == [chat]
    assert len(store.search("needle")) == 1


def test_only_what_was_deleted_long_ago_is_forgotten(store: SessionStore) -> None:
    chat, ids = filled(store, *[f"message number {n}" for n in range(1500)])
    assert len(ids) == 1500
    store.delete(chat)
    assert store.empty_trash() == 0
    assert store.empty_trash(older_than_s=-1) == 1
    store.restore(chat)
    assert store.chats() == []


def test_removing_a_message_takes_its_branch_with_it(store: SessionStore) -> None:
    chat, ids = filled(store, *[f"message number {n}" for n in range(1500)])
    store.remove(ids[1])
    assert [stored.id for stored in store.entries(chat)] == [ids[0]]
    assert store.chat(chat).tip_id == ids[0]
    assert store.search("number 77") == []


def test_a_chat_has_the_name_and_settings_it_was_given_last(store: SessionStore) -> None:
    chat, ids = filled(store, "a", "b")
    store.rename(chat, "better")
    store.change_settings(chat, "other model", {"system": None})
    store.set_tip(chat, ids[0])
    found = store.chat(chat)
    assert (found.title, found.model, found.settings, found.tip_id) == (
        "better",
        "other model",
        {"system": None},
        ids[0],
    )


def test_history_is_what_was_typed_oldest_first(store: SessionStore) -> None:
    chat, _ = filled(store, "one", "two")
    store.add(chat, None, Entry(Message("user", "three\n\n[file]"), extra={"shown": "three"}))
    store.add(chat, None, said("not typed", role="assistant"))
    assert store.questions(2) == ["two", "three"]


def test_half_of_a_character_can_be_saved(store: SessionStore) -> None:
    chat, _ = filled(store, "torn \ud83d paste")
    assert store.entries(chat)[0].entry.message.content == "torn ? paste"


def test_an_unreadable_file_is_set_aside_and_never_deleted(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    path.write_bytes(b"this was a database once" * 500)
    store = SessionStore(path)
    (aside,) = tmp_path.glob("chats.db.unreadable-*")
    assert aside.read_bytes() == b"this was a database once" * 500
    assert str(aside) in store.notice
    filled(store, "works again")
    store.close()


def test_a_damaged_page_is_noticed_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    store = SessionStore(path)
    filled(store, *["x" * 3000] * 50)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 12] = b"\x55" * (4096 * 9)
    path.write_bytes(content)
    again = SessionStore(path)
    assert "could not be read" in again.notice
    assert len(list(tmp_path.glob("*unreadable*"))) == 1
    assert again.chats() == []
    again.close()


def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    SessionStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"pragma user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(SessionError, match="newer k2lite"):
        SessionStore(path)
    assert list(tmp_path.glob("*unreadable*")) == []


def test_a_file_of_the_first_version_is_migrated_with_its_messages(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    old = sqlite3.connect(path, isolation_level=None)
    migrate(old, MIGRATIONS[:1])
    old.execute("insert into chat values (1, 'old', 'demo', '{}', 1, 5, 5, null)")
    old.execute(
        "insert into message values (1, 1, null, 'message', 'user', 'from long ago', '', '[]', '', '', 'stop', '{}', 5)"
    )
    old.close()
    store = SessionStore(path)
    assert [chat.title for chat in store.chats()] == ["old"]
    assert [hit.chat_title for hit in store.search("long ago")] == ["old"]
    store.close()


def test_a_migration_that_fails_leaves_the_version_as_it_was(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "chats.db").connection

    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("create table half(id)")
        raise LookupError("no further")

    with pytest.raises(LookupError):
        migrate(connection, [*MIGRATIONS, fails])
    assert connection.execute("pragma user_version").fetchone() == (len(MIGRATIONS),)
    assert connection.execute("select count(*) from sqlite_master where name = 'half'").fetchone() == (0,)
    connection.close()


def test_a_folder_that_cannot_be_made_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SessionError, match="cannot be saved in"):
        SessionStore(tmp_path / "file" / "chats.db")


def test_two_programs_may_write_at_once(tmp_path: Path) -> None:
    one, two = SessionStore(tmp_path / "chats.db"), SessionStore(tmp_path / "chats.db")
    chat, _ = filled(one, "from one")
    two.add(chat, None, said("from two"))
    assert [stored.entry.message.content for stored in one.entries(chat)] == ["from one", "from two"]
    one.close()
    two.close()
