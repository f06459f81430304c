"""Commands about how things look and which keys do what."""

from typing import TYPE_CHECKING

from tui.commands.registry import command

if TYPE_CHECKING:
    from tui.app import ChatApp


@command("theme", "change the colours", "NAME", lambda app: sorted(app.available_themes))
async def theme(app: "ChatApp", argument: str) -> None:
    if not argument:
        app.search_themes()
        return
    if argument not in app.available_themes:
        app.say(f"There is no theme {argument}. There are: {', '.join(sorted(app.available_themes))}")
        return
    app.theme = argument


@command("help", "all commands and keys")
async def help_screen(app: "ChatApp", argument: str) -> None:
    from tui.screens.help import HelpScreen

    await app.push_screen(HelpScreen())


@command("quit", "leave; everything is saved")
async def quit_app(app: "ChatApp", argument: str) -> None:
    app.exit()
