"""Commands behind a slash, in the palette, and what is offered while writing."""

from pathlib import Path

import pytest

from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import chat
from tui.commands import COMMANDS
from tui.completion import matching_paths, mention_at_end, path_offers
from tui.errors import SettingsError
from tui.keys import all_bindings, checked_keymap


async def test_commands_are_offered_and_tab_takes_one() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        await screen.pilot.press("slash", "e", "x")
        await screen.shows("/experts", "/export [FILE]", "/export-all")
        await screen.pilot.press("down", "tab")
        await screen.until(lambda: screen.prompt.text == "/export ")
        await screen.until(lambda: not screen.app.query_one("#offers").display)


async def test_values_are_offered_behind_a_command() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        screen.prompt.write("/theme nor")
        await screen.shows("nord")
        await screen.pilot.press("tab", "enter")
        await screen.until(lambda: screen.app.theme == "nord")


async def test_escape_closes_the_offers_first() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        screen.prompt.write("/th")
        await screen.shows("/theme NAME")
        await screen.pilot.press("escape")
        await screen.until(lambda: not screen.app.query_one("#offers").display)
        assert screen.prompt.text == "/th"


async def test_an_unknown_command_is_told_with_what_is_near() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        await screen.send("/exprot x")
        await screen.until(lambda: bool(screen.told))
        assert "There is no command /exprot" in screen.told[0]
        assert "/export" in screen.told[0]


async def test_two_slashes_ask_what_begins_with_one() -> None:
    engine = FakeEngine([Script(says("A comment."))])
    async with chat(engine) as screen:
        await screen.ask("//etc is a folder")
        assert engine.requests[0].messages[-1].content == "/etc is a folder"


async def test_commands_that_need_quiet_are_refused_while_an_answer_comes() -> None:
    engine = FakeEngine([Script(says("One."), waits=True)])
    async with chat(engine) as screen:
        await screen.ready()
        await screen.send("go")
        await screen.until(engine.waiting.is_set)
        await screen.send("/new")
        await screen.until(lambda: screen.told == ["Not yet: an answer is on its way, Esc stops it."])
        await screen.send("/stop")
        await screen.until(lambda: not screen.app.busy)


async def test_help_shows_all_commands_and_keys() -> None:
    async with chat(FakeEngine(), size=(120, 130), keys={"app.experts": "f8"}) as screen:
        await screen.ready()
        await screen.pilot.press("f1")
        for command in COMMANDS.values():
            await screen.shows(f"/{command.name}", command.summary)
        await screen.shows("app.experts", "f8")


async def test_the_palette_runs_a_command() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        await screen.pilot.press("ctrl+p")
        await screen.pilot.press(*"show or hide the map")
        await screen.shows("/experts")
        await screen.pilot.press("enter")
        await screen.until(lambda: screen.app.query_one("#experts").display)


async def test_a_key_can_be_another_one() -> None:
    async with chat(FakeEngine(), keys={"app.experts": "f8", "prompt.send": "f9"}) as screen:
        await screen.ready()
        await screen.pilot.press("f2")
        await screen.pilot.press("f8")
        await screen.until(lambda: screen.app.query_one("#experts").display)


def test_every_binding_has_an_id_and_no_two_the_same() -> None:
    ids = [binding.id for binding in all_bindings()]
    assert None not in ids
    assert len(set(ids)) == len(ids)


def test_a_key_for_nothing_or_for_two_things_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no key for 'app\.nothing'; there are: app"):
        checked_keymap({"app.nothing": "f8"})
    with pytest.raises(SettingsError, match="the key f4 is wanted for"):
        checked_keymap({"app.experts": "f4"})


def test_paths_are_offered_with_folders_and_spaces(tmp_path: Path) -> None:
    (tmp_path / "notes one.txt").touch()
    (tmp_path / "nested").mkdir()
    (tmp_path / ".hidden").touch()
    offers = path_offers(f"look at @{tmp_path}/n")
    assert [offer.text for offer in offers] == [f"look at @{tmp_path}/nested/", f'look at @"{tmp_path}/notes one.txt" ']
    assert matching_paths(f"{tmp_path}/") == [f"{tmp_path}/nested/", f"{tmp_path}/notes one.txt"]
    assert matching_paths(f"{tmp_path}/.h") == [f"{tmp_path}/.hidden"]
    assert matching_paths(f"{tmp_path}/absent/x") == []


@pytest.mark.parametrize(
    ("text", "path"),
    [("@", ""), ("read @a/b", "a/b"), ('read @"a b', "a b"), ("mail me@home", None), ("@a done", None), ("none", None)],
)
def test_a_path_is_being_written_behind_an_at_sign(text: str, path: str | None) -> None:
    assert mention_at_end(text) == path


async def test_a_path_is_completed_in_the_box(tmp_path: Path) -> None:
    (tmp_path / "alpha.txt").touch()
    async with chat(FakeEngine(), size=(120, 24)) as screen:
        await screen.ready()
        screen.prompt.write(f"see @{tmp_path}/al")
        await screen.until(lambda: bool(screen.app.query_one("#offers").offers))
        await screen.pilot.press("tab")
        await screen.until(lambda: screen.prompt.text == f"see @{tmp_path}/alpha.txt ")


async def test_the_editor_gets_the_prompt_and_gives_it_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from contextlib import contextmanager

    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "and more" >> "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setattr("tui.actions.editor_command", lambda: [str(editor)])
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        monkeypatch.setattr(screen.app, "suspend", contextmanager(lambda: iter([None])))
        screen.prompt.write("something\n")
        await screen.pilot.press("ctrl+g")
        await screen.until(lambda: screen.prompt.text == "something\nand more")
        monkeypatch.setattr("tui.actions.editor_command", list)
        await screen.pilot.press("ctrl+g")
        await screen.until(lambda: screen.told == ["No editor is set: export EDITOR=nano, or another one."])
