"""Editing, asking again, other branches, and copying, all by keyboard."""

from pathlib import Path

from quant.errors import RequestError
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import Chat, chat


def scripts(*texts: str) -> FakeEngine:
    return FakeEngine([Script(says(text)) for text in texts])


def shown(screen: Chat) -> list[str]:
    return [node.message.content for node in screen.app.conversation.path()]


async def test_an_edited_question_makes_a_branch_and_the_old_one_is_a_key_away() -> None:
    engine = scripts("One.", "Two.", "Other.")
    async with chat(engine) as screen:
        await screen.ask("first")
        await screen.ask("second")
        await screen.send("/edit 1")
        await screen.until(lambda: screen.prompt.text == "first")
        await screen.shows("editing an earlier question")
        screen.prompt.text = "first, better"
        await screen.pilot.press("enter")
        await screen.until(lambda: screen.answers == ["Other."])
        assert shown(screen) == ["first, better", "Other."]
        await screen.shows("‹ 2 of 2 ›")
        await screen.until(lambda: not screen.app.busy)
        await screen.send("/branch previous")
        await screen.until(lambda: screen.answers == ["One.", "Two."])
        assert shown(screen) == ["first", "One.", "second", "Two."]
        await screen.shows("‹ 1 of 2 ›", "second")


async def test_escape_leaves_an_edit() -> None:
    async with chat(scripts("One.", "Two.")) as screen:
        await screen.ask("first")
        await screen.send("/edit")
        await screen.until(lambda: screen.app.actions.editing is not None)
        await screen.pilot.press("escape")
        await screen.until(lambda: screen.app.actions.editing is None and screen.prompt.text == "")
        await screen.ask("second")
        assert shown(screen) == ["first", "One.", "second", "Two."]


async def test_a_refused_edit_leaves_the_conversation_as_it_was() -> None:
    engine = FakeEngine([Script(says("One.")), Script(error=RequestError("not like that"))])
    async with chat(engine) as screen:
        await screen.ask("first")
        await screen.send("/edit")
        await screen.until(lambda: screen.prompt.text == "first")
        screen.prompt.text = "worse"
        await screen.pilot.press("enter")
        await screen.until(lambda: screen.errors == ["not like that"] and not screen.app.busy)
        assert shown(screen) == ["first", "One."]
        assert screen.prompt.text == "worse"
        assert screen.app.actions.editing is not None


async def test_asking_again_keeps_both_answers() -> None:
    engine = scripts("One.", "Uno.")
    async with chat(engine) as screen:
        await screen.ask("first")
        await screen.pilot.press("ctrl+r")
        await screen.until(lambda: screen.answers == ["Uno."] and not screen.app.busy)
        assert engine.requests[1].messages == engine.requests[0].messages
        await screen.pilot.press("ctrl+up", "left")
        await screen.until(lambda: screen.answers == ["One."])
        await screen.pilot.press("right")
        await screen.until(lambda: screen.answers == ["Uno."])


async def test_an_answer_that_fails_when_asked_again_gives_the_first_one_back() -> None:
    engine = FakeEngine([Script(says("One.")), Script(error=RequestError("no"))])
    async with chat(engine) as screen:
        await screen.ask("first")
        await screen.pilot.press("ctrl+r")
        await screen.until(lambda: bool(screen.errors) and not screen.app.busy)
        assert shown(screen) == ["first", "One."]


async def test_messages_are_chosen_and_worked_on_with_letters() -> None:
    engine = scripts("One.", "Two.")
    async with chat(engine) as screen:
        await screen.ask("first")
        await screen.ask("second")
        await screen.pilot.press("ctrl+up", "up")
        await screen.until(lambda: screen.app.chosen_node is not None)
        assert screen.app.chosen_node.message.content == "second"
        await screen.pilot.press("up", "up", "up")
        assert screen.app.chosen_node.message.content == "first"
        await screen.pilot.press("e")
        await screen.until(lambda: screen.prompt.text == "first" and screen.app.focused is screen.prompt)
        await screen.pilot.press("escape", "ctrl+up", "down")
        await screen.until(lambda: screen.app.focused is screen.prompt)


async def test_a_stopped_answer_goes_on() -> None:
    engine = FakeEngine([Script(says("Half"), waits=True), Script(says("and half."))])
    async with chat(engine) as screen:
        await screen.ready()
        await screen.send("go")
        await screen.until(engine.waiting.is_set)
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
        await screen.shows("stopped: the next message continues from here")
        await screen.send("/continue")
        await screen.until(lambda: screen.answers == ["Half", "and half."])
        assert [m.content for m in engine.requests[1].messages] == ["go", "Half", "Continue exactly where you stopped."]


async def test_message_and_code_block_are_copied(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tui.clipboard.clipboard_tools", list)
    answer = "Look:\n\n```python\nx = 1\n```\n\nand\n\n```\nsecond\n```\n"
    async with chat(scripts(answer)) as screen:
        await screen.ask("code?")
        await screen.send("/copy")
        await screen.until(lambda: screen.app.clipboard == answer)
        await screen.send("/code")
        await screen.until(lambda: screen.app.clipboard == "second\n")
        await screen.send("/code 1")
        await screen.until(lambda: screen.app.clipboard == "x = 1\n")
        assert "code block 1 of 2" in screen.told[-1]
        assert "OSC 52" in screen.told[-1]
        await screen.send("/code 3")
        await screen.until(lambda: screen.told[-1] == "3 is none of the 2 code blocks here.")


async def test_copying_uses_the_machines_own_tool_and_says_which(monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "clipboard"
    monkeypatch.setattr("tui.clipboard.clipboard_tools", lambda: [("false",), ("no such tool",), ("tee", str(target))])
    async with chat(scripts("Hélas.")) as screen:
        await screen.ask("well?")
        await screen.send("/copy")
        await screen.until(lambda: "Copied the message with tee." in screen.told)
        assert target.read_text() == "Hélas."


async def test_the_prompt_goes_through_what_was_asked_before() -> None:
    async with chat(scripts("One.", "Two.")) as screen:
        await screen.ask("first")
        await screen.ask("second")
        await screen.pilot.press("d", "r", "a", "f", "t", "up")
        await screen.until(lambda: screen.prompt.text == "second")
        await screen.pilot.press("up", "up")
        await screen.until(lambda: screen.prompt.text == "first")
        await screen.pilot.press("down", "down")
        await screen.until(lambda: screen.prompt.text == "draft")


async def test_a_long_chat_shows_its_end_and_more_when_asked() -> None:
    from k2lite.events import Message
    from tui.sessions.records import Entry

    async with chat(FakeEngine()) as screen:
        await screen.ready()
        for number in range(60):
            screen.app.conversation.add(Entry(Message("user", f"message {number}")))
        await screen.app.log_view.show_branch(screen.app.conversation.path())
        assert len(screen.app.query("Question")) == 30
        await screen.shows("message 59")
        await screen.app.log_view.show_earlier()
        assert len(screen.app.query("Question")) == 50
        assert str(screen.app.query("EarlierMessages").first().render()).startswith("… 10 earlier")
        await screen.app.log_view.show_earlier()
        assert [view.node.typed for view in screen.app.query("Question")] == [f"message {n}" for n in range(60)]
        assert not screen.app.query("EarlierMessages")
