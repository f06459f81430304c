"""The chat as its user meets it."""

import threading

from textual.events import Key

from k2lite.events import Message, PrefillProgress, Sampling
from quant.errors import CheckpointError, EngineError, RequestError
from tests.tui.fake_engine import INFO, WAIT_S, FakeEngine, Script, says
from tests.tui.screen import chat
from tui.conversation import ChatSettings


async def test_enter_streams_an_answer_and_counts_it() -> None:
    async with chat(FakeEngine([Script(says("The **fox** jumps."))])) as screen:
        assert await screen.ask("What does it do?") == "The **fox** jumps."
        await screen.shows("The fox jumps.", "What does it do?")
        assert screen.status.startswith("4.0 tok/s · 5 tok · first after ")
        assert screen.gauge == "ctx 15/1,000 (2 %)"
        assert screen.prompt.text == ""


async def test_loading_shows_its_progress_and_then_the_model() -> None:
    engine = FakeEngine([Script(says("Hi."))])
    engine.loading.clear()
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "loading 512 MiB of 1.00 GiB (50 %)")
        engine.loading.set()
        await screen.until(lambda: screen.status == "ready")
        assert screen.text_of("#title") == "fake model · Q4_K · 1.00 GiB · context 1,000"


async def test_a_question_while_loading_is_asked_when_the_model_is_there() -> None:
    engine = FakeEngine([Script(says("Hi."))])
    engine.loading.clear()
    async with chat(engine) as screen:
        await screen.send("early")
        await screen.shows("next: early")
        assert engine.requests == []
        engine.loading.set()
        await screen.until(lambda: screen.answers == ["Hi."])
        assert "next:" not in screen.screen_text()


async def test_escape_stops_and_keeps_the_text_for_the_next_turn() -> None:
    engine = FakeEngine([Script(says("Half an ans"), waits=True), Script(says("Go on."))])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "ready")
        await screen.send("tell me")
        await screen.until(engine.waiting.is_set)
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
        assert engine.running == 0
        assert screen.answers == ["Half an ans"]
        assert screen.status.endswith("stopped")
        await screen.ask("and then?")
        assert engine.requests[1].messages == (
            Message("user", "tell me"),
            Message("assistant", "Half an ans"),
            Message("user", "and then?"),
        )


async def test_a_stop_before_the_first_token_gives_the_question_back() -> None:
    engine = FakeEngine([Script(waits=True), Script(says("Yes."))])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "ready")
        await screen.send("a mistake")
        await screen.until(lambda: screen.status.startswith("prompt"))
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
        assert screen.prompt.text == "a mistake"
        await screen.ask("better")
        assert engine.requests[1].messages == (Message("user", "better"),)


async def test_a_second_question_waits_its_turn() -> None:
    engine = FakeEngine([Script(says("One."), waits=True), Script(says("Two."))])
    async with chat(engine) as screen:
        await screen.ready()
        await screen.send("first")
        await screen.until(engine.waiting.is_set)
        await screen.send("second\nline")
        await screen.shows("next: second line")
        assert screen.prompt.text == ""
        engine.go_on.set()
        await screen.until(lambda: screen.answers == ["One.", "Two."])
        assert engine.requests[1].messages[-1].content == "second\nline"


async def test_what_waits_comes_back_when_the_answer_before_it_is_stopped() -> None:
    engine = FakeEngine([Script(says("One."), waits=True)])
    async with chat(engine) as screen:
        await screen.ready()
        await screen.send("first")
        await screen.until(engine.waiting.is_set)
        await screen.send("second")
        await screen.send("third")
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
        assert screen.prompt.text == "second\n\nthird"
        assert len(engine.requests) == 1


async def test_prompt_progress_is_shown_while_it_is_made() -> None:
    script = Script(prefill=[PrefillProgress(12_288, 30_100, 0, 58.5)], waits=True)
    async with chat(FakeEngine([script])) as screen:
        await screen.until(lambda: screen.status == "ready")
        await screen.send("a long text")
        await screen.until(lambda: screen.status == "prompt 12,288 / 30,100 tokens (41 %), 210.1 tok/s, 1:25 left")
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)


async def test_thinking_is_folded_away_beside_the_answer() -> None:
    engine = FakeEngine([Script([("think", "hmm <b>"), ("answer", "Yes.")]), Script(says("Ok."))])
    async with chat(engine) as screen:
        assert await screen.ask("really?") == "Yes."
        think = screen.last_answer.query_one("#think")
        assert think.has_class("used")
        assert think.collapsed
        assert not screen.last_answer.query_one("#tool").has_class("used")
        think.collapsed = False
        await screen.shows("hmm <b>")
        await screen.ask("sure?")
        assert engine.requests[1].messages[1] == Message("assistant", "Yes.", reasoning="hmm <b>")


async def test_a_refused_request_is_a_message_and_the_question_comes_back() -> None:
    refusal = RequestError("the prompt has 5000 tokens, but the context holds 1000: shorten it")
    engine = FakeEngine([Script(error=refusal), Script(says("Fine."))])
    async with chat(engine) as screen:
        await screen.ask("too long")
        assert screen.errors == [str(refusal)]
        assert screen.prompt.text == "too long"
        assert await screen.ask("shorter") == "Fine."
        assert engine.requests[1].messages == (Message("user", "shorter"),)
        assert engine.loads == 1


async def test_the_death_of_the_engine_is_a_message_and_the_next_question_loads_again() -> None:
    death = EngineError("it was killed")
    death.add_note("Traceback: all of it\n")
    engine = FakeEngine([Script(says("Half"), error=death), Script(says("Alive."))])
    async with chat(engine) as screen:
        await screen.ask("hello")
        assert screen.errors == ["it was killed"]
        assert screen.answers == ["Half"]
        await screen.shows("ended by an error")
        assert screen.status == "no model: the next question tries again, F5 has others"
        assert await screen.ask("again") == "Alive."
        assert engine.loads == 2
        assert screen.app.crash_reports == ["Traceback: all of it\n"]


async def test_a_model_that_cannot_be_loaded_is_a_message_and_can_be_tried_again() -> None:
    engine = FakeEngine([Script(says("Now."))], load_errors=[CheckpointError("the file is damaged")])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.errors == ["the file is damaged"])
        assert await screen.ask("hello") == "Now."


async def test_text_of_the_model_cannot_steer_the_screen() -> None:
    hostile = "<b>tag</b> [red]x[/red] [@click=app.exit]y[/] \x1b[31mz\x07 \u202eabc"
    engine = FakeEngine([Script([*says(hostile), ("think", hostile), ("tool", hostile)])])
    async with chat(engine) as screen:
        await screen.ask("[bold]what[/bold] \x1b[2J")
        screen.last_answer.query_one("#think").collapsed = False
        shown = "<b>tag</b> [red]x[/red] [@click=app.exit]y[/] ␛[31mz␇ \ufffdabc"
        await screen.until(lambda: screen.screen_text().count(shown) == 3)
        await screen.shows("[bold]what[/bold] ␛[2J")
        assert "\x1b" not in screen.screen_text()


async def test_an_error_is_shown_as_it_is_on_one_line() -> None:
    engine = FakeEngine(load_errors=[CheckpointError("bad [red]name[/red]\n\x1b[2J")])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.errors == ["bad [red]name[/red] ␛[2J"])


async def test_settings_reach_the_engine_and_the_rest_is_the_models_own() -> None:
    engine = FakeEngine([Script(says("Yes."))])
    settings = ChatSettings("Be brief.", thinking=False, max_tokens=9, seed=3, sampling={"top_k": 7})
    async with chat(engine, settings) as screen:
        await screen.ask("hello")
    (request,) = engine.requests
    assert request.messages[0] == Message("system", "Be brief.")
    assert (request.thinking, request.max_tokens, request.seed) == (False, 9, 3)
    assert request.sampling == Sampling(INFO.default_sampling.temperature, top_k=7)


async def test_page_up_is_not_pulled_down_by_new_text() -> None:
    long_text = "\n\n".join(f"Paragraph {n}." for n in range(40))
    engine = FakeEngine([Script(says(long_text, 40), waits=True)])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "ready")
        await screen.send("go")
        log = screen.app.query_one("#log")
        await screen.until(lambda: log.max_scroll_y > 20 and log.scroll_y == log.max_scroll_y)
        log.scroll_page_up(animate=False)
        await screen.until(lambda: log.scroll_y < log.max_scroll_y)
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.busy)
        assert log.scroll_y < log.max_scroll_y


async def test_a_new_line_is_written_with_control_j() -> None:
    engine = FakeEngine([Script(says("Yes."))])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "ready")
        await screen.pilot.press("a", "ctrl+j", "b")
        await screen.until(lambda: screen.prompt.text == "a\nb")
        await screen.pilot.press("enter")
        await screen.until(lambda: len(engine.requests) == 1)
        assert engine.requests[0].messages[-1].content == "a\nb"


async def test_keys_that_come_all_at_once_are_taken_in_their_order() -> None:
    engine = FakeEngine([Script(says("Yes."))])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "ready")
        for key in ("h", "i", "ctrl+j", "x", "enter", "n", "o"):
            screen.app.post_message(Key(key, key if len(key) == 1 else None))
        await screen.until(lambda: len(engine.requests) == 1 and screen.prompt.text == "no")
        assert engine.requests[0].messages[-1].content == "hi\nx"


async def test_blank_text_is_not_sent() -> None:
    engine = FakeEngine()
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "ready")
        await screen.send("  \n ")
        await screen.pilot.pause()
    assert engine.requests == []


async def test_control_c_copies_a_selection_and_leaves_without_one() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.until(lambda: screen.status == "ready")
        screen.prompt.text = "abc"
        screen.prompt.select_all()
        await screen.pilot.press("ctrl+c")
        await screen.until(lambda: screen.app.clipboard == "abc")
        assert screen.app.is_running
        screen.prompt.move_cursor((0, 0))
        await screen.pilot.press("ctrl+c")
        await screen.until(lambda: screen.app._exit)


async def test_leaving_in_the_middle_of_an_answer_stops_the_engine() -> None:
    engine = FakeEngine([Script(says("Half"), waits=True)])
    async with chat(engine) as screen:
        await screen.until(lambda: screen.status == "ready")
        await screen.send("hello")
        await screen.until(lambda: engine.running == 1)
        await screen.pilot.press("ctrl+q")
    for thread in threading.enumerate():
        if thread.name.startswith("k2lite-engine"):
            thread.join(WAIT_S / 2)
    assert engine.running == 0


async def test_only_web_links_are_opened() -> None:
    opened: list[str] = []
    async with chat(FakeEngine([Script(says("[a](https://example.org) [b](file:///etc/passwd)"))])) as screen:
        await screen.ask("links")
        screen.app.open_url = lambda url, *, new_tab=True: opened.append(url)  # type: ignore[method-assign]
        markdown = screen.last_answer.text.parts[0]
        for href in ("https://example.org", "file:///etc/passwd"):
            markdown.post_message(markdown.LinkClicked(markdown, href))
        await screen.until(lambda: screen.told == ["Not a web page, not opened: file:///etc/passwd"])
        assert opened == ["https://example.org"]


async def test_every_theme_shows_the_chat() -> None:
    async with chat(FakeEngine([Script(says("Some **text** and `code`."))])) as screen:
        await screen.ask("hello")
        for theme in ("textual-dark", "textual-light", "ansi-dark", "nord"):
            screen.app.theme = theme
            await screen.pilot.pause()
            await screen.shows("Some text and code.")


async def test_a_new_conversation_is_the_way_on_when_the_context_is_full() -> None:
    full = RequestError("the prompt has 1001 tokens, but the context holds 1000: start a new conversation")
    engine = FakeEngine([Script(says("One.")), Script(error=full), Script(says("Two."))])
    async with chat(engine, ChatSettings(system="Be brief.")) as screen:
        await screen.ask("first")
        await screen.send("too long")
        await screen.until(lambda: bool(screen.errors) and not screen.app.busy)
        await screen.pilot.press("ctrl+n")
        await screen.until(lambda: not screen.answers and not screen.errors)
        assert await screen.ask("afresh") == "Two."
        assert engine.requests[-1].messages == (Message("system", "Be brief."), Message("user", "afresh"))
