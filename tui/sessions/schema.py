"""The database's tables, and how a file made by an older program gets them."""

import sqlite3
from collections.abc import Callable, Sequence

from tui.errors import SessionError

Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: list[Migration] = []


def migration(step: Migration) -> Migration:
    """Register the next step, from the version that has as many steps behind it."""
    MIGRATIONS.append(step)
    return step


def migrate(connection: sqlite3.Connection, steps: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest version, one transaction a step. Raises SessionError for one that is newer still."""
    (version,) = connection.execute("pragma user_version").fetchone()
    if version > len(steps):
        raise SessionError(
            f"the saved conversations were written by a newer k2lite (version {version}, this one knows "
            f"{len(steps)}): use that one, or another --database"
        )
    for number in range(version, len(steps)):
        connection.execute("begin immediate")
        try:
            (seen,) = connection.execute("pragma user_version").fetchone()
            if seen == number:  # else another program that started at the same moment has done it
                steps[number](connection)
                connection.execute(f"pragma user_version = {number + 1}")
        except BaseException:
            connection.execute("rollback")
            raise
        connection.execute("commit")


@migration
def m001_chats_and_messages(connection: sqlite3.Connection) -> None:
    """A tree of messages per chat: editing or asking again adds a sibling and destroys nothing.

    Only finished messages are in the index, so that an answer is not indexed anew with every half second of it.
    """
    for statement in _M001:
        connection.execute(statement)


@migration
def m002_questions_are_found_by_time(connection: sqlite3.Connection) -> None:
    """The list of chats and the history of the prompt are read at every start."""
    connection.execute("create index chat_changed on chat(deleted_at, changed_at)")
    connection.execute("create index message_role on message(role, id)")


_M001 = (
    """create table chat(
        id integer primary key, title text not null, model text not null, settings_json text not null,
        tip_id integer, created_at real not null, changed_at real not null, deleted_at real)""",
    """create table message(
        id integer primary key, chat_id integer not null references chat(id) on delete cascade,
        parent_id integer references message(id),
        kind text not null, role text not null, text text not null, thinking text not null,
        calls_json text not null, call_id text not null, name text not null,
        finish text, extra_json text not null, created_at real not null)""",
    "create index message_chat on message(chat_id)",
    "create index message_parent on message(parent_id)",
    "create virtual table message_fts using fts5(text, content='message', content_rowid='id', tokenize='trigram')",
    """create trigger message_inserted after insert on message when new.finish is not null begin
        insert into message_fts(rowid, text) values (new.id, new.text); end""",
    """create trigger message_deleted after delete on message when old.finish is not null begin
        insert into message_fts(message_fts, rowid, text) values ('delete', old.id, old.text); end""",
    """create trigger message_unindexed before update of text, finish on message when old.finish is not null begin
        insert into message_fts(message_fts, rowid, text) values ('delete', old.id, old.text); end""",
    """create trigger message_indexed after update of text, finish on message when new.finish is not null begin
        insert into message_fts(rowid, text) values (new.id, new.text); end""",
)
