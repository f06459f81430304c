"""A conversation that outgrows the context: the warning, the choice, and what each way does."""

from k2lite.events import EngineInfo, Message, Sampling
from quant.errors import ContextFullError, RequestError
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import Chat, chat
from tui.context import characters_per_token, kept_messages, summary_request
from tui.conversation import ChatSettings, Conversation
from tui.screens.full import FullScreen
from tui.sessions.records import Entry

FULL = ContextFullError("the prompt has 1,001 tokens, but the context holds 1,000")
INFO = EngineInfo("m", 100, 20, "F32", Sampling())


def full_engine(*after: Script) -> FakeEngine:
    return FakeEngine([Script(says("One.")), Script(says("Two.")), Script(error=FULL), *after])


async def until_asked(screen: Chat) -> None:
    await screen.ask("first")
    await screen.ask("second")
    await screen.send("third")
    await screen.until(lambda: isinstance(screen.app.screen, FullScreen))
    await screen.shows("The context is full", "holds 1,000", "Summarise", "Drop the oldest", "Stop")


def contents(engine: FakeEngine) -> list[str]:
    return [message.content for message in engine.requests[-1].messages]


async def test_a_summary_takes_the_place_of_what_was_said() -> None:
    engine = full_engine(Script(says("They count.")), Script(says("Three.")))
    async with chat(engine, ChatSettings(system="Be kind.")) as screen:
        await until_asked(screen)
        await screen.pilot.press("s")
        await screen.until(lambda: screen.answers[-1:] == ["Three."] and not screen.app.busy)
        assert "Summarise our conversation" in engine.requests[3].messages[-1].content
        assert contents(engine)[0] == "Be kind.\n\nWhat was said before, in short: They count."
        assert contents(engine)[-1] == "third"
        await screen.shows("In short: They count.")
        assert screen.errors == []


async def test_dropping_leaves_the_oldest_out_and_asks_at_once() -> None:
    engine = full_engine(Script(says("Three.")))
    async with chat(engine) as screen:
        await until_asked(screen)
        await screen.pilot.press("d")
        await screen.until(lambda: screen.answers[-1:] == ["Three."] and not screen.app.busy)
        assert contents(engine)[-1] == "third"
        assert "first" not in contents(engine)
        await screen.shows("no longer sent")


async def test_stopping_gives_the_question_back() -> None:
    engine = full_engine()
    async with chat(engine) as screen:
        await until_asked(screen)
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
        assert screen.prompt.text == "third"
        assert screen.errors == [str(FULL)]
        assert len(screen.app.conversation.path()) == 4


async def test_a_question_too_long_by_itself_is_asked_about_once() -> None:
    engine = full_engine(Script(error=FULL))
    async with chat(engine) as screen:
        await until_asked(screen)
        await screen.pilot.press("d")
        await screen.until(lambda: bool(screen.errors) and not screen.app.busy)
        assert screen.prompt.text == "third"


async def test_a_summary_that_fails_stops() -> None:
    engine = full_engine(Script(error=RequestError("no summary today")))
    async with chat(engine) as screen:
        await until_asked(screen)
        await screen.pilot.press("s")
        await screen.until(lambda: len(screen.errors) == 2 and not screen.app.busy)
        assert screen.errors[0] == "no summary today"
        assert screen.prompt.text == "third"


async def test_room_can_be_made_before_it_is_needed() -> None:
    engine = FakeEngine([Script(says("One.")), Script(says("They count.")), Script(says("Two."))])
    async with chat(engine) as screen:
        await screen.ask("first")
        await screen.send("/compact")
        await screen.shows("In short: They count.")
        await screen.ask("second")
        assert contents(engine) == ["What was said before, in short: They count.", "second"]


async def test_the_gauge_turns_yellow_and_red_and_says_what_to_do() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        gauge = screen.app.query_one("#gauge")
        screen.app.show_context(740, 1000)
        assert not gauge.has_class("warning") and not gauge.has_class("alarm")
        screen.app.show_context(750, 1000)
        assert gauge.has_class("warning") and screen.gauge == "ctx 750/1,000 (75 %)"
        screen.app.show_context(900, 1000)
        screen.app.show_context(905, 1000)
        assert gauge.has_class("alarm") and not gauge.has_class("warning")
        assert [told for told in screen.told if "/compact" in told and "nearly full" in told] == screen.told


def conversation(*texts: str) -> Conversation:
    made = Conversation(ChatSettings())
    for number, text in enumerate(texts):
        made.add(Entry(Message("assistant" if number % 2 else "user", text)))
    return made


def test_what_is_kept_begins_with_a_question_and_fits() -> None:
    path = conversation("a" * 100, "b" * 20, "c" * 20, "d" * 20).path()
    assert kept_messages(path, context_tokens=100, per_token=3.0) == 2
    assert kept_messages(path, context_tokens=10, per_token=3.0) == 0
    assert kept_messages(path, context_tokens=100_000, per_token=3.0) == 2  # never all of it
    assert kept_messages([], 100, 3.0) == 0


def test_the_length_of_a_token_is_learned_from_the_last_answer() -> None:
    made = conversation("a" * 384)
    assert characters_per_token(made.path(), made) == 3.0
    made.add(Entry(Message("assistant", "x"), extra={"counts": {"prompt_tokens": 100}}))
    assert characters_per_token(made.path(), made) == 4.0


def test_a_summary_is_asked_of_what_fits_the_newest_first() -> None:
    made = conversation("old " * 100, "answer", "new question", "new answer")
    request = summary_request(made, made.path(), EngineInfo("m", 600, 20, "F32", Sampling()), 3.0)
    assert [message.content for message in request.messages[:-1]] == ["new question", "new answer"]
    assert request.max_tokens == 150
