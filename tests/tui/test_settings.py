"""How answers are made: the form, the commands, and what has no effect."""

import pytest

from k2lite.events import EngineInfo, Sampling
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import chat
from tui.conversation import ChatSettings
from tui.errors import SettingsError
from tui.prompt_library import LIBRARY
from tui.screens.settings import SettingsScreen
from tui.setting_values import SETTING_NAMES, changed_settings, default_text, value_text, without_effect

INFO = EngineInfo("m", 10, 20, "F32", Sampling(temperature=1.0, top_p=0.95), Sampling(temperature=0.6))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("temperature", "0.3", ChatSettings(sampling={"temperature": 0.3})),
        ("top-k", "40", ChatSettings(sampling={"top_k": 40})),
        ("system", "Be kind.", ChatSettings(system="Be kind.")),
        ("thinking", "off", ChatSettings(thinking=False)),
        ("max_tokens", "2k", ChatSettings(max_tokens=2048)),
        ("seed", "7", ChatSettings(seed=7)),
    ],
)
def test_a_setting_is_read_and_taken_back(name: str, text: str, expected: ChatSettings) -> None:
    changed = changed_settings(ChatSettings(), name, text)
    assert changed == expected
    assert changed_settings(changed, name, "") == ChatSettings()


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("temperature", "warm", "'warm' is not a number"),
        ("top_p", "2", "must be above 0 and at most 1"),
        ("thinking", "maybe", "must be on or off"),
        ("seed", "-1", "at least 0"),
        ("heat", "1", "there is no setting heat: there are temperature"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_reason(name: str, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        changed_settings(ChatSettings(), name, text)


def test_what_has_no_effect_is_said() -> None:
    settings = ChatSettings(seed=3, sampling={"temperature": 0.0, "top_p": 0.5})
    assert without_effect(settings, INFO) == [
        "top_p, seed: no effect at temperature 0, which takes the most probable token"
    ]
    assert without_effect(ChatSettings(seed=3, sampling={"top_p": 0.5}), INFO) == []


def test_every_setting_has_its_text_and_says_what_holds_without_it() -> None:
    settings = ChatSettings("s", True, 5, 7, {"temperature": 0.5})
    assert [value_text(settings, name) for name in SETTING_NAMES] == ["0.5", "", "", "", "", "s", "on", "5", "7"]
    assert all(default_text(INFO, settings, name) for name in SETTING_NAMES)
    assert default_text(INFO, settings, "top_p") == "0.95 (the model's)"
    assert default_text(INFO, ChatSettings(thinking=False), "temperature") == "0.6 (the model's)"


async def test_the_form_changes_the_next_answer() -> None:
    engine = FakeEngine([Script(says("One."))])
    async with chat(engine, ChatSettings(system="Old.")) as screen:
        await screen.ready()
        await screen.pilot.press("f4")
        await screen.shows("temperature", "0.5 (the model's)", "repeat penalty", "Old.")
        await screen.pilot.press("0")
        await screen.pilot.press("down", ".", "5")
        await screen.shows("top_p: no effect at temperature 0")
        form = screen.app.screen
        form.query_one("#set-system").value = "New."
        await screen.pilot.press("ctrl+s")
        await screen.until(lambda: not isinstance(screen.app.screen, SettingsScreen))
        await screen.ask("hello")
    request = engine.requests[0]
    assert request.sampling == Sampling(temperature=0.0, top_p=0.5)
    assert request.messages[0].content == "New."


async def test_a_wrong_value_keeps_the_form_open_and_escape_changes_nothing() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        await screen.pilot.press("f4")
        await screen.until(lambda: isinstance(screen.app.screen, SettingsScreen))
        await screen.pilot.press("x", "enter")
        await screen.shows("temperature: 'x' is not a number")
        await screen.pilot.press("escape")
        await screen.until(lambda: not isinstance(screen.app.screen, SettingsScreen))
        assert screen.app.chat.settings == ChatSettings()


async def test_a_command_sets_one_and_says_what_is_wrong() -> None:
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        await screen.send("/set temperature 0.25")
        await screen.until(lambda: screen.app.chat.settings.sampling == {"temperature": 0.25})
        await screen.send("/system Speak like a pirate.")
        await screen.until(lambda: screen.app.chat.settings.system == "Speak like a pirate.")
        await screen.send("/thinking on")
        await screen.until(lambda: screen.app.chat.settings.thinking is True)
        await screen.send("/set top_k many")
        await screen.until(lambda: screen.errors == ["top_k: 'many' is not a whole number"])


async def test_a_prompt_of_the_library_goes_into_the_box_or_the_system_prompt() -> None:
    async with chat(FakeEngine(), prompts={"Mine [b]": "Do as I say."}, size=(100, 40)) as screen:
        await screen.ready()
        await screen.send("/prompts")
        await screen.shows("Mine [b]", "Do as I say.", "A play: three who cannot stop", "particles that change")
        await screen.pilot.press("enter")
        await screen.until(lambda: screen.prompt.text == "Do as I say.")
        screen.prompt.clear()
        await screen.send("/prompts")
        await screen.shows("Brief answers")
        await screen.pilot.press("end", "enter")
        await screen.until(lambda: screen.app.chat.settings.system == LIBRARY[-1].text)


def test_the_library_has_the_two_trials_and_no_name_twice() -> None:
    texts = " ".join(prompt.text for prompt in LIBRARY)
    assert all(word in texts for word in ("Sisyphus", "Icarus", "Narcissus", "three.js", "torus"))
    assert len({prompt.name for prompt in LIBRARY}) == len(LIBRARY)
