"""Which messages are found, and what it takes."""

from pathlib import Path

import pytest

from k2lite.events import Message
from tests.tui.sessions.many import SEARCHED, many_messages
from tests.tui.sessions.test_store import filled, said, store
from tui.sessions.records import Entry
from tui.sessions.search import excerpt_of
from tui.sessions.store import SessionStore

__all__ = ["store"]

MESSAGES = 2000


def found(store: SessionStore, words: str) -> list[str]:
    return [hit.excerpt for hit in store.search(words)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("expert", "an EXPERT map"),
        ("pert", "an expert map"),
        ("c++", "written in c++ then"),
        ('"quo', 'a "quoted" word'),
        ("a-b", "with a-b in it"),
        ("模型", "这个模型很大"),
        ("大模型跑", "大模型跑得很慢"),
        ("é", "café"),
        ("100%", "up 100% here"),
        ("a_b", "name a_b there"),
        ("AND", "salt and pepper"),
        ("map ex", "an expert map"),
        ("( NEAR", "( near to it"),
        ("\\", "a \\ b"),
    ],
)
def test_words_are_found_in_whatever_they_are_part_of(store: SessionStore, words: str, text: str) -> None:
    filled(store, "something else", text)
    assert found(store, words) == [text]


@pytest.mark.parametrize("words", ["", "  ", "absent", "100%x", "a_c", '"', "%%"])
def test_what_is_not_there_is_not_found(store: SessionStore, words: str) -> None:
    filled(store, "name abc there", "100 of them")
    assert found(store, words) == []


def test_the_newest_hit_comes_first_and_says_where_it_is(store: SessionStore) -> None:
    chat, ids = filled(store, "a fox", "no", "two foxes", title="Animals")
    newest, oldest = store.search("fox")
    assert (newest.message_id, oldest.message_id) == (ids[2], ids[0])
    assert (newest.chat_id, newest.chat_title, newest.role, newest.spans) == (chat, "Animals", "user", ((4, 7),))


def test_an_answer_that_was_never_finished_is_found_too(store: SessionStore) -> None:
    chat, (first,) = filled(store, "question")
    store.add(chat, first, said("half an answ", role="assistant", finish=None))
    assert found(store, "answ") == ["half an answ"]
    assert found(store, "an") == ["half an answ"]


def test_changed_and_removed_text_is_found_as_it_is_now(store: SessionStore) -> None:
    _, ids = filled(store, "first words", "second words")
    store.update(ids[1], said("other text"))
    assert found(store, "second") == []
    assert found(store, "other") == ["other text"]
    store.update(ids[1], said("open again", finish=None))
    store.update(ids[1], said("closed again"))
    assert found(store, "again") == ["closed again"]
    store.remove(ids[0])
    assert found(store, "first") == []


def test_cuts_are_no_messages(store: SessionStore) -> None:
    chat, ids = filled(store, "question")
    store.add(chat, ids[0], Entry(Message("system", "a summary"), kind="cut"))
    assert found(store, "summary") == []


def test_the_excerpt_is_one_line_around_the_first_word() -> None:
    excerpt, spans = excerpt_of("x" * 100 + "\nthe needle\tis here and a NEEDLE there " + "y" * 300, ["needle", "here"])
    assert excerpt.startswith("…xxx")
    assert "\n" not in excerpt
    assert [excerpt[begin:end] for begin, end in spans] == ["needle", "here", "NEEDLE", "here"]


def test_a_capital_that_grows_shifts_nothing() -> None:
    excerpt, spans = excerpt_of("İİİ the needle", ["needle"])
    assert [excerpt[begin:end] for begin, end in spans] == ["needle"]


@pytest.mark.parametrize("words", SEARCHED)
def test_a_search_looks_at_every_message_once_at_most(words: str, tmp_path: Path) -> None:
    """Counted in SQLite's own steps, of which one look at a message takes some ten; a result is read besides."""
    store = many_messages(tmp_path / "chats.db", MESSAGES)
    steps = steps_of(store, words)
    store.close()
    assert steps < 12 * MESSAGES


def steps_of(store: SessionStore, words: str) -> int:
    """Steps of SQLite's machine for one search."""
    counted = 0

    def one() -> int:
        nonlocal counted
        counted += 1
        return 0

    store._connection.set_progress_handler(one, 1)
    store.search(words)
    store._connection.set_progress_handler(None, 0)
    return counted
