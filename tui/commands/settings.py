"""Commands about how answers are made: sampling, system prompt, thinking, prompts from the library."""

from dataclasses import fields
from typing import TYPE_CHECKING

from k2lite.events import Sampling
from tui.commands.registry import command
from tui.setting_values import SETTING_NAMES, changed_settings

if TYPE_CHECKING:
    from tui.app import ChatApp


@command("settings", "how answers are made: sampling, system prompt, limits")
async def settings(app: "ChatApp", argument: str) -> None:
    from tui.screens.settings import SettingsScreen

    changed = await app.push_screen_wait(SettingsScreen(app.chat.settings, app.slot.info))
    if changed is not None:
        await app.actions.apply_settings(changed)


@command("set", "change one setting; without a value, back to the model's own", "NAME [VALUE]",
         lambda app: list(SETTING_NAMES))  # fmt: skip
async def set_one(app: "ChatApp", argument: str) -> None:
    name, _, value = argument.partition(" ")
    if not name:
        app.say(f"Which one? {', '.join(SETTING_NAMES)}")
        return
    await app.actions.apply_settings(changed_settings(app.chat.settings, name, value.strip()))


@command("system", "set the system prompt of this chat; without a text, none", "[TEXT]")
async def system(app: "ChatApp", argument: str) -> None:
    await app.actions.apply_settings(changed_settings(app.chat.settings, "system", argument))


@command("thinking", "let the model think first, or not", "on|off|auto", lambda app: ["on", "off", "auto"])
async def thinking(app: "ChatApp", argument: str) -> None:
    await app.actions.apply_settings(
        changed_settings(app.chat.settings, "thinking", "" if argument == "auto" else argument)
    )


@command("prompts", "choose a prompt from the library")
async def prompts(app: "ChatApp", argument: str) -> None:
    from tui.screens.prompts import PromptsScreen

    chosen = await app.push_screen_wait(PromptsScreen(app.launch.prompts))
    if chosen is None:
        return
    if chosen.system:
        await app.actions.apply_settings(changed_settings(app.chat.settings, "system", chosen.text))
    else:
        app.prompt.write(chosen.text)
    app.prompt.focus()


assert {field.name for field in fields(Sampling)} <= set(SETTING_NAMES), "every sampling field can be set"
