"""Tool calls in the chat: asked for, run, given back to the model, and counted."""

import asyncio
from pathlib import Path

from k2lite.events import Message, ToolCall
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import Chat, chat
from tui.tools.tool import Tool
from tui.views.tool_block import ToolBlock


def calling(path: Path, number: int = 0, name: str = "list_folder") -> Script:
    arguments = f'{{"path": "{path}"}}'
    call = ToolCall(f"functions.{name}:{number}", name, arguments)
    return Script([("tool", f"functions.{name}:{number}{arguments}")], calls=(call,))


async def asked(screen: Chat) -> None:
    await screen.until(lambda: screen.status.startswith("the model wants to use"))
    await asyncio.sleep(0.35)  # keys of the first moment do not count


async def test_a_tool_runs_after_a_yes_and_its_result_goes_to_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    engine = FakeEngine([calling(tmp_path), Script(says("One file."))])
    async with chat(engine, tools=("list_folder",), size=(80, 40)) as screen:
        await screen.ready()
        await screen.send("what is there?")
        await asked(screen)
        await screen.shows("tool list_folder", f"path: {tmp_path}", "Run once (y)")
        assert "tools 1/8" in screen.status
        await screen.pilot.press("y")
        await screen.until(lambda: not screen.app.busy)
        await screen.shows("→ a.txt", "One file.")
        assert "Run once" not in screen.screen_text()
        assert screen.app.focused is screen.prompt
    assert engine.requests[0].tools[0]["function"]["name"] == "list_folder"
    call = ToolCall("functions.list_folder:0", "list_folder", f'{{"path": "{tmp_path}"}}')
    assert engine.requests[1].messages == (
        Message("user", "what is there?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "a.txt", tool_call_id="functions.list_folder:0", name="list_folder"),
    )


async def test_a_no_runs_nothing_and_is_told_to_the_model(tmp_path: Path) -> None:
    engine = FakeEngine([calling(tmp_path), Script(says("Then not."))])
    async with chat(engine, tools=("all",)) as screen:
        await screen.ready()
        await screen.send("go")
        await asked(screen)
        await screen.pilot.press("n")
        await screen.until(lambda: not screen.app.busy)
    assert engine.requests[1].messages[-1].content == "error: the user did not allow this call"


async def test_always_holds_for_this_chat_and_this_tool_only(tmp_path: Path) -> None:
    engine = FakeEngine(
        [calling(tmp_path), calling(tmp_path, 1), Script(says("Done.")), calling(tmp_path, 2), Script(says("No."))]
    )
    async with chat(engine, tools=("all",)) as screen:
        await screen.ready()
        await screen.send("go")
        await asked(screen)
        await screen.pilot.press("a")
        await screen.until(lambda: screen.answers[-1:] == ["Done."] and not screen.app.busy)
        assert len(engine.requests) == 3
        assert not screen.app.toolbox.may_run("read_file")
        await screen.pilot.press("ctrl+n")
        await screen.send("go")
        await asked(screen)
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)


async def test_an_allowed_tool_is_not_asked_for(tmp_path: Path) -> None:
    engine = FakeEngine([calling(tmp_path), Script(says("Done."))])
    async with chat(engine, tools=("all",), allowed=("list_folder",)) as screen:
        assert await screen.ask("go") == "Done."
    assert engine.requests[1].messages[-1].content == "(empty)"


async def test_escape_while_asked_stops_the_turn_and_the_call_has_a_result(tmp_path: Path) -> None:
    engine = FakeEngine([calling(tmp_path), Script(says("Later."))])
    async with chat(engine, tools=("all",)) as screen:
        await screen.ready()
        await screen.send("go")
        await asked(screen)
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
        assert len(engine.requests) == 1
        await screen.ask("and now?")
        assert [message.role for message in engine.requests[1].messages] == ["user", "assistant", "tool", "user"]
        assert engine.requests[1].messages[2].content == "error: the user stopped before this was run"


async def test_escape_ends_a_tool_that_takes_long(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def slow(arguments: object) -> str:
        started.set()
        await asyncio.sleep(600)
        return "never"

    engine = FakeEngine([calling(tmp_path, name="slow")])
    async with chat(engine, tools=("all",)) as screen:
        await screen.ready()
        screen.app.toolbox.add(Tool("slow", "", {}, slow))
        screen.app.toolbox.offered.add("slow")
        screen.app.toolbox.allowed.add("slow")
        await screen.send("go")
        await screen.until(started.is_set)
        await screen.shows("running …")
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)


async def test_the_rounds_have_a_limit_that_is_told(tmp_path: Path) -> None:
    engine = FakeEngine([calling(tmp_path, number) for number in range(5)])
    async with chat(engine, tools=("all",), allowed=("list_folder",), tool_rounds=3) as screen:
        await screen.ask("go on and on")
        assert len(engine.requests) == 4
        await screen.shows("3 rounds of tools are the limit")
        assert screen.app.conversation.tip.message.role == "tool"


async def test_writing_is_not_interrupted_by_the_question(tmp_path: Path) -> None:
    engine = FakeEngine([Script([("tool", "x")], calls=calling(tmp_path).calls, waits=True), Script(says("No."))])
    async with chat(engine, tools=("all",)) as screen:
        await screen.ready()
        await screen.send("go")
        await screen.until(engine.waiting.is_set)
        await screen.pilot.press("m", "a")
        engine.go_on.set()
        await asked(screen)
        await screen.pilot.press("y")
        assert screen.prompt.text == "may"
        block = screen.app.query_one(ToolBlock)
        block.focus()
        await screen.pilot.press("n")
        await screen.until(lambda: not screen.app.busy)


async def test_tools_are_offered_and_withdrawn_with_commands(tmp_path: Path) -> None:
    engine = FakeEngine([Script(says("a")), Script(says("b"))])
    async with chat(engine) as screen:
        await screen.ask("one")
        assert engine.requests[0].tools == ()
        await screen.send("/tools read_file, get_time")
        await screen.until(lambda: any("Offered from the next question" in told for told in screen.told))
        await screen.ask("two")
        assert [tool["function"]["name"] for tool in engine.requests[1].tools] == ["read_file", "get_time"]
        await screen.send("/tools nonsense")
        await screen.until(lambda: any("no tool nonsense" in told for told in screen.told))
        await screen.send("/tools none")
        await screen.until(lambda: screen.app.toolbox.declarations == [])


async def test_a_tool_that_is_not_there_is_told_at_the_start() -> None:
    async with chat(FakeEngine(), tools=("nonsense",)) as screen:
        await screen.until(lambda: any("there is no tool nonsense" in error for error in screen.errors))


async def test_after_a_stopped_call_the_chat_is_ready_again(tmp_path: Path) -> None:
    async with chat(FakeEngine([calling(tmp_path)]), tools=("list_folder",)) as screen:
        await screen.ready()
        await screen.send("what is there?")
        await asked(screen)
        await screen.pilot.press("escape")
        await screen.ready()


async def test_leaving_while_asked_ends_the_app_and_runs_nothing(tmp_path: Path) -> None:
    engine = FakeEngine([calling(tmp_path)])
    async with chat(engine, tools=("all",), database=tmp_path / "chats.db") as screen:
        await screen.ready()
        await screen.send("go")
        await asked(screen)
        await screen.pilot.press("ctrl+q")
    assert len(engine.requests) == 1


async def test_the_end_of_the_app_while_the_model_waits_for_a_yes_is_no_crash(tmp_path: Path) -> None:
    async with chat(FakeEngine([calling(tmp_path)]), tools=("list_folder",)) as screen:
        await screen.ready()
        await screen.send("what is there?")
        await asked(screen)
    assert screen.app.return_code in (None, 0)
