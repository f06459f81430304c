"""Conversations that outlive the app, as their user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest

from k2lite.events import Message
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import Chat, chat
from tui.conversation import ChatSettings
from tui.screens.chats import ChatsScreen
from tui.sessions.records import Entry
from tui.sessions.store import SessionStore


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


def stored(database: Path, *texts: str, title: str = "A chat", finish: str | None = "stop") -> int:
    """A saved chat: question, answer, question ..."""
    store = SessionStore(database)
    chat_id = store.create_chat(title, "demo", {"system": "Be kind.", "sampling": {"top_p": 0.5}})
    parent = None
    for number, text in enumerate(texts):
        last = number == len(texts) - 1
        message = Message("assistant" if number % 2 else "user", text)
        parent = store.add(chat_id, parent, Entry(message, finish=finish if last else "stop"))
    store.close()
    return chat_id


def in_file(database: Path) -> list[tuple[str, str, str | None]]:
    store = SessionStore(database)
    (chat_in_list,) = store.chats()
    entries = [(e.entry.message.role, e.entry.message.content, e.entry.finish) for e in store.entries(chat_in_list.id)]
    store.close()
    return entries


def texts(screen: Chat) -> list[str]:
    return [node.message.content for node in screen.app.conversation.path()]


async def test_a_conversation_is_saved_and_goes_on_next_time(database: Path) -> None:
    async with chat(FakeEngine([Script(says("One."))]), ChatSettings(system="Be brief."), database=database) as screen:
        await screen.ask("first question")
    engine = FakeEngine([Script(says("Two."))])
    async with chat(engine, database=database, resume="last") as screen:
        await screen.ready()
        await screen.shows("first question", "One.")
        assert screen.text_of("#title").endswith("first question")
        await screen.ask("second")
        assert [message.content for message in engine.requests[0].messages] == [
            "Be brief.",
            "first question",
            "One.",
            "second",
        ]
    assert len(in_file(database)) == 4


async def test_a_chat_can_be_opened_by_its_number(database: Path) -> None:
    first = stored(database, "one")
    stored(database, "two")
    async with chat(FakeEngine(), database=database, resume=first) as screen:
        await screen.ready()
        assert texts(screen) == ["one"]


async def test_a_number_that_is_not_there_is_an_error_in_the_log(database: Path) -> None:
    async with chat(FakeEngine(), database=database, resume=99) as screen:
        await screen.ready()
        assert screen.errors == ["there is no chat 99: the list of chats shows those that are there"]


async def test_the_text_of_an_answer_is_saved_while_it_comes(database: Path) -> None:
    engine = FakeEngine([Script([("think", "hmm"), *says("Half of it")], waits=True)])
    async with chat(engine, database=database) as screen:
        await screen.ready()
        await screen.send("go")
        await screen.until(engine.waiting.is_set)
        await screen.until(lambda: in_file(database)[-1] == ("assistant", "Half of it", None))
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
    assert in_file(database)[-1] == ("assistant", "Half of it", "cancelled")


async def test_an_answer_over_which_the_program_died_says_so(database: Path) -> None:
    stored(database, "question", "half an ans", finish=None)
    async with chat(FakeEngine(), database=database, resume="last") as screen:
        await screen.ready()
        await screen.shows("half an ans", "interrupted: the program ended here")
    assert in_file(database)[-1] == ("assistant", "half an ans", "interrupted")


async def test_a_question_without_answer_is_taken_back_from_the_file(database: Path) -> None:
    engine = FakeEngine([Script(waits=True)])
    async with chat(engine, database=database) as screen:
        await screen.ready()
        await screen.send("a mistake")
        await screen.until(lambda: screen.status.startswith("prompt"))
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
    store = SessionStore(database)
    assert store.chats() == []
    store.close()


async def test_the_branch_that_was_shown_is_shown_again(database: Path) -> None:
    engine = FakeEngine([Script(says("One.")), Script(says("Other."))])
    async with chat(engine, database=database) as screen:
        await screen.ask("first")
        await screen.pilot.press("ctrl+r")
        await screen.until(lambda: screen.answers == ["Other."] and not screen.app.busy)
        await screen.send("/branch previous")
        await screen.until(lambda: screen.answers == ["One."])
    async with chat(FakeEngine(), database=database, resume="last") as screen:
        await screen.ready()
        assert texts(screen) == ["first", "One."]
        await screen.shows("‹ 1 of 2 ›")


async def test_search_finds_a_message_in_another_chat_and_goes_there(database: Path) -> None:
    stored(database, "about the fox", "It jumps over the lazy dog.", title="Animals")
    stored(database, "something else", title="Other")
    async with chat(FakeEngine(), database=database) as screen:
        await screen.ready()
        await screen.send("/search lazy")
        await screen.shows("lazy dog", "answer in Animals", "1 message(s)")
        await screen.pilot.press("down", "enter")
        await screen.until(lambda: texts(screen) == ["about the fox", "It jumps over the lazy dog."])
        await screen.until(lambda: screen.app.chosen_node is not None)
        assert screen.app.chosen_node.message.content == "It jumps over the lazy dog."


async def test_hits_are_highlighted(database: Path) -> None:
    stored(database, "a [red]needle[/red] in hay", title="[b]hay[/b]")
    async with chat(FakeEngine(), database=database) as screen:
        await screen.ready()
        await screen.send("/search needle")
        await screen.shows("a [red]needle[/red] in hay", "[b]hay[/b]")
        segments = [s for strip in screen.app.screen._compositor.render_strips() for s in strip]
        assert any(s.text == "needle" and s.style is not None and s.style.reverse for s in segments)


async def test_chats_are_renamed_deleted_and_brought_back_in_the_list(database: Path) -> None:
    stored(database, "one", title="first chat")
    async with chat(FakeEngine(), database=database) as screen:
        await screen.ready()
        await screen.pilot.press("ctrl+o")
        await screen.shows("first chat")
        await screen.pilot.press("f2")
        await screen.until(lambda: screen.app.screen.query_one("#words").value == "first chat")
        screen.app.screen.query_one("#words").value = "better name"
        await screen.pilot.press("enter")
        await screen.shows("better name")
        await screen.pilot.press("down", "delete")
        await screen.shows(
            "deleted: Ctrl+Z",
        )
        assert "better name" not in screen.screen_text()
        await screen.pilot.press("ctrl+z")
        await screen.shows("better name")
        await screen.pilot.press("escape")
        await screen.until(lambda: not isinstance(screen.app.screen, ChatsScreen))


async def test_the_open_chat_is_deleted_and_undone_with_commands(database: Path) -> None:
    stored(database, "one", "two", title="first chat")
    async with chat(FakeEngine(), database=database, resume="last") as screen:
        await screen.ready()
        await screen.send("/rename my chat")
        await screen.until(lambda: screen.text_of("#title").endswith("my chat"))
        await screen.send("/delete")
        await screen.until(lambda: texts(screen) == [])
        await screen.send("/undo")
        await screen.until(lambda: texts(screen) == ["one", "two"])
        assert screen.text_of("#title").endswith("my chat")


async def test_a_chat_is_exported_and_comes_back_with_all_its_branches(database: Path, tmp_path: Path) -> None:
    engine = FakeEngine([Script([("think", "hmm"), *says("One.")]), Script(says("Other."))])
    async with chat(engine, database=database) as screen:
        await screen.ask("first")
        await screen.pilot.press("ctrl+r")
        await screen.until(lambda: screen.answers == ["Other."] and not screen.app.busy)
        await screen.send(f"/export {tmp_path}/chat.json")
        await screen.until(lambda: any("chat.json" in told for told in screen.told))
        await screen.send(f"/export {tmp_path}/chat.md")
        await screen.until(lambda: any("chat.md" in told for told in screen.told))
        await screen.send(f"/export {tmp_path}/chat.md")
        await screen.until(lambda: any("exists already" in error for error in screen.errors))
    markdown = (tmp_path / "chat.md").read_text()
    assert markdown.startswith("# first\n")
    assert "## You\n\nfirst\n" in markdown and "## Answer\n\nOther." in markdown
    other = tmp_path / "other.db"
    async with chat(FakeEngine(), database=other) as screen:
        await screen.ready()
        await screen.send(f"/import {tmp_path}/chat.json")
        await screen.until(lambda: texts(screen) == ["first", "Other."])
        await screen.shows("‹ 2 of 2 ›")
        await screen.send("/branch previous")
        await screen.until(lambda: screen.answers == ["One."])
        assert screen.app.conversation.path()[1].message.reasoning == "hmm"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("no json", "is not JSON"),
        ("[1]", "no export of k2lite chats"),
        ('{"format": "k2lite-chat", "version": 9, "chats": []}', "has version 9"),
        ('{"format": "k2lite-chat", "version": 1, "chats": [{"title": 1}]}', "chat 0 of the file is damaged"),
    ],
)
async def test_a_file_that_is_no_export_is_refused(
    database: Path, tmp_path: Path, content: str, complaint: str
) -> None:
    (tmp_path / "bad.json").write_text(content)
    async with chat(FakeEngine(), database=database) as screen:
        await screen.ready()
        await screen.send(f"/import {tmp_path}/bad.json")
        await screen.until(lambda: any(complaint in error for error in screen.errors))


def test_a_damaged_tree_is_refused_whole(database: Path, tmp_path: Path) -> None:
    from tui.errors import SessionError
    from tui.sessions.exported import import_json, json_of

    stored(database, "one", "two")
    store = SessionStore(database)
    (found,) = store.chats()
    exported: dict[str, Any] = json.loads(json_of([(found, store.entries(found.id))]))
    exported["chats"][0]["messages"][0]["parent"] = 1
    (tmp_path / "loop.json").write_text(json.dumps(exported))
    with pytest.raises(SessionError, match="message 0 has the parent 1"):
        import_json(store, tmp_path / "loop.json")
    assert len(store.chats()) == 1
    store.close()


async def test_without_saving_the_list_says_why_it_is_empty() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        await screen.pilot.press("ctrl+o")
        await screen.until(lambda: any("--no-save" in error for error in screen.errors))


async def test_a_database_that_cannot_be_opened_is_told_and_the_chat_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with chat(FakeEngine([Script(says("Yes."))]), database=tmp_path / "file" / "chats.db") as screen:
        await screen.until(lambda: any("cannot be saved in" in error for error in screen.errors))
        assert await screen.ask("still there?") == "Yes."


async def test_a_database_that_fails_later_is_told_once(database: Path) -> None:
    engine = FakeEngine([Script(says("One.")), Script(says("Two."))])
    async with chat(engine, database=database) as screen:
        await screen.ready()
        await screen.app.sessions.call(lambda store: store._connection.execute("drop table message"))
        await screen.ask("first")
        await screen.ask("second")
        assert texts(screen) == ["first", "One.", "second", "Two."]
        assert len([error for error in screen.errors if "cannot be used" in error]) == 1
