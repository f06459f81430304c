"""Whatever comes from outside changes nothing but the text shown; whatever the terminal is, the chat can be used."""

import asyncio
import time
from pathlib import Path

import pytest

from k2lite.events import ToolCall
from quant.errors import EngineError
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import Chat, chat
from tui.commands import COMMANDS

HOSTILE = "[red]x[/red] [@click=app.exit]y[/] \x1b[31mz\x07 \u202eabc\u2066 \x9b2J <b>b</b>"
SHOWN = "[red]x[/red] [@click=app.exit]y[/] ␛[31mz␇ \ufffdabc\ufffd \ufffd2J <b>b</b>"


def no_controls(screen: Chat) -> bool:
    return not any(
        ord(character) < 32 or 127 <= ord(character) < 160 for character in screen.screen_text().replace("\n", "")
    )


async def test_hostile_text_is_shown_wherever_it_turns_up(tmp_path: Path) -> None:
    call = ToolCall(f"functions.{HOSTILE}:0", HOSTILE, HOSTILE)
    engine = FakeEngine([Script(says(HOSTILE), calls=(call,)), Script(says("Done."))])
    async with chat(engine, size=(100, 50), database=tmp_path / "chats.db", tools=("all",)) as screen:
        await screen.ready()
        await screen.send(HOSTILE)
        await screen.until(lambda: screen.status.startswith("the model wants to use"))
        await asyncio.sleep(0.35)
        await screen.pilot.press("n")
        await screen.until(lambda: not screen.app.busy)
        assert screen.screen_text().count(SHOWN) >= 4  # question, answer, name and arguments of the call
        assert no_controls(screen)
        await screen.pilot.press("ctrl+o")
        await screen.shows("messages", SHOWN)
        assert no_controls(screen)
        screen.app.screen.query_one("#words").value = "click"
        await screen.shows("message(s)")
        assert no_controls(screen)
        assert screen.app.is_running


async def test_hostile_file_names_are_only_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "[red]a\x1b[31m.txt"
    (tmp_path / name).write_text("alpha")
    engine = FakeEngine([Script(says("Yes."))])
    async with chat(engine) as screen:
        await screen.ready()
        screen.prompt.write("@[re")
        await screen.shows("[red]a␛[31m.txt")
        assert no_controls(screen)
        screen.prompt.clear()
        await screen.ask(f'@"{name}"')
        await screen.shows("+ [red]a␛[31m.txt (5 B)")
        assert no_controls(screen)


@pytest.mark.slow
async def test_a_line_of_a_million_characters_stops_nobody(tmp_path: Path) -> None:
    line = "word " * 200_000
    engine = FakeEngine([Script([("think", line), ("answer", line)]), Script(says("Still here."))])
    async with chat(engine, database=tmp_path / "chats.db") as screen:
        await screen.ready()
        stalls: list[float] = []

        async def watch() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.01)
                stalls.append(time.perf_counter() - before - 0.01)

        watching = asyncio.ensure_future(watch())
        await screen.send(line)
        await screen.until(lambda: len(engine.requests) == 1 and not screen.app.busy, timeout_s=200)
        watching.cancel()
        assert screen.app.conversation.tip.message.content == line
        assert await screen.ask("and now?") == "Still here."
        await screen.shows("Still here.")
        stalls.sort()
        print(f"a line of 1 MB: the longest stall is {1000 * stalls[-1]:.0f} ms")
        assert stalls[-1] < 5.0


SIZES = [(80, 24), (20, 6), *(pytest.param(size, marks=pytest.mark.slow) for size in ((200, 60), (40, 12)))]


@pytest.mark.parametrize("size", SIZES)
async def test_every_screen_opens_at_every_size(size: tuple[int, int], tmp_path: Path) -> None:
    async with chat(FakeEngine([Script(says("One."))]), size=size, database=tmp_path / "chats.db") as screen:
        await screen.ask("hello")
        for key in ("f1", "f2", "f4", "f5", "ctrl+o", "ctrl+l", "ctrl+p"):
            await screen.pilot.press(key)
            await screen.pilot.pause(0.05)
            await screen.pilot.press("escape")
            await screen.pilot.pause()
        await screen.until(lambda: len(screen.app.screen_stack) == 1)
        assert screen.app.is_running


async def test_the_size_may_change_while_an_answer_comes() -> None:
    text = "\n\n".join(f"Paragraph {n} with some words in it." for n in range(60)) + "\n\n- a\n- b\n\nEnd."
    engine = FakeEngine([Script(says(text, 5), delay_s=0.002)])
    async with chat(engine) as screen:
        await screen.ready()
        await screen.send("go")
        for size in ((200, 60), (30, 10), (80, 24), (120, 40), (80, 24)):
            await screen.pilot.resize_terminal(*size)
            await screen.pilot.pause(0.05)
        await screen.until(lambda: len(engine.requests) == 1 and not screen.app.busy)
        assert screen.answers == [text]
        await screen.shows("End.")


async def test_every_command_has_a_summary_and_survives_being_run(tmp_path: Path) -> None:
    engine = FakeEngine([Script(says(f"Answer {n}.")) for n in range(20)])
    async with chat(engine, database=tmp_path / "chats.db", models_folder=tmp_path) as screen:
        await screen.ask("hello")
        for name, command in COMMANDS.items():
            if name in ("quit", "editor", "export", "export-all", "plan"):
                continue
            assert command.summary
            await screen.until(lambda: not screen.app.busy)
            screen.app.run_command(f"/{name}")
            await screen.pilot.pause(0.1)
            while len(screen.app.screen_stack) > 1:
                await screen.pilot.press("escape")
                await screen.pilot.pause()
            await screen.pilot.press("escape")
        assert screen.app.is_running


async def test_the_engine_is_restarted_by_a_command_after_its_death() -> None:
    engine = FakeEngine(
        [Script(error=EngineError("it was killed, most often because memory ran out")), Script(says("Back."))]
    )
    async with chat(engine) as screen:
        await screen.ask("hello")
        await screen.shows("it was killed, most often because memory ran out")
        await screen.send("/restart")
        await screen.ready()
        assert engine.loads == 2
        assert await screen.ask("again") == "Back."


async def test_a_model_without_a_word_more_than_its_events_ends_in_an_error() -> None:
    class Torn(FakeEngine):
        def generate(self, request, stop):  # type: ignore[no-untyped-def]
            self.requests.append(request)
            yield from ()

    async with chat(Torn()) as screen:
        await screen.ask("hello")
        assert screen.errors == ["the engine ended its answer without saying how: the next message goes on"]
        assert screen.prompt.text == "hello"


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "ansi-dark", "ansi-light", "nord", "gruvbox"])
async def test_every_kind_of_theme_shows_every_part(theme: str) -> None:
    engine = FakeEngine(
        [Script([("think", "hm"), *says("Some **text** and `code`.\n\n- item\n\n```python\nx = 1\n```\n")])]
    )
    async with chat(engine, theme=theme) as screen:
        await screen.ask("hello")
        await screen.shows("Some text and code.", "• item", "x = 1", "Thinking")
