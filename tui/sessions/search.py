"""Full-text search over all chats.

The trigram index finds parts of words, and Chinese, from three characters on. Shorter words are looked for in the
messages themselves; so are those of answers that were never finished, which are not in the index.
"""

import sqlite3
from typing import Any

from tui.sessions.records import Hit

_INDEXED_CHARACTERS = 3
_BEFORE, _AFTER = 30, 130

_FIELDS = "m.chat_id, c.title, m.id, m.role, m.created_at, m.text"
_VISIBLE = "c.deleted_at is null and m.kind = 'message'"


def search(connection: sqlite3.Connection, words: str, limit: int) -> list[Hit]:
    """Messages that hold all words, parts of longer ones included, whatever their case; the newest first."""
    terms = words.split()
    if not terms:
        return []
    rows = _indexed(connection, terms, limit) + _unindexed(connection, terms, limit)
    rows.sort(key=lambda row: row[2], reverse=True)
    return [_hit(row, terms) for row in rows[:limit]]


def _indexed(connection: sqlite3.Connection, terms: list[str], limit: int) -> list[Any]:
    long = [term for term in terms if len(term) >= _INDEXED_CHARACTERS]
    if not long:
        return []
    match = " AND ".join('"' + term.replace('"', '""') + '"' for term in long)
    conditions, patterns = _like([term for term in terms if len(term) < _INDEXED_CHARACTERS])
    return connection.execute(
        f"select {_FIELDS} from message_fts f join message m on m.id = f.rowid join chat c on c.id = m.chat_id "
        f"where message_fts match ? and {_VISIBLE}{conditions} order by f.rowid desc limit ?",
        (match, *patterns, limit),
    ).fetchall()


def _unindexed(connection: sqlite3.Connection, terms: list[str], limit: int) -> list[Any]:
    """All messages when no term is in the index, else only those that are not in it."""
    only_unfinished = any(len(term) >= _INDEXED_CHARACTERS for term in terms)
    conditions, patterns = _like(terms)
    return connection.execute(
        f"select {_FIELDS} from message m join chat c on c.id = m.chat_id "
        f"where {_VISIBLE}{' and m.finish is null' if only_unfinished else ''}{conditions} "
        "order by m.id desc limit ?",
        (*patterns, limit),
    ).fetchall()


def _like(terms: list[str]) -> tuple[str, list[str]]:
    escaped = [term.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for term in terms]
    return " and m.text like ? escape '\\'" * len(terms), [f"%{term}%" for term in escaped]


def _hit(row: Any, terms: list[str]) -> Hit:
    chat_id, title, message_id, role, created_at, text = row
    excerpt, spans = excerpt_of(text, terms)
    return Hit(chat_id, title, message_id, role, created_at, excerpt, spans)


def excerpt_of(text: str, terms: list[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A piece of `text` on one line around the first term, and the spans of all terms in it."""
    found = _find(text, terms[0])
    begin = max(0, (found if found >= 0 else 0) - _BEFORE)
    piece = text[begin : begin + _BEFORE + _AFTER]
    excerpt = ("…" if begin else "") + "".join(" " if character.isspace() else character for character in piece)
    spans = []
    for term in terms:
        start = _find(excerpt, term)
        while start >= 0:
            spans.append((start, start + len(term)))
            start = _find(excerpt, term, start + len(term))
    return excerpt, tuple(sorted(spans))


def _find(text: str, term: str, start: int = 0) -> int:
    """Where `term` is, whatever its case; -1 where it is not."""
    lowered = text.lower()
    # A few capital letters grow when they are made small, and would shift what is behind them.
    return (lowered if len(lowered) == len(text) else text).find(term.lower(), start)
