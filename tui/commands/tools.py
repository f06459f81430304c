"""Commands about the tools that the model may ask for."""

from typing import TYPE_CHECKING

from tui.commands.registry import command

if TYPE_CHECKING:
    from tui.app import ChatApp


def _names(app: "ChatApp") -> list[str]:
    return [tool.name for tool in app.toolbox.tools]


@command(
    "tools", "offer tools to the model, or no longer", "[all|none|NAME ...]", lambda app: ["all", "none", *_names(app)]
)
async def tools(app: "ChatApp", argument: str) -> None:
    known = _names(app)
    if not argument:
        lines = [
            f"{'offered' if name in app.toolbox.offered else 'not offered'}: {name}"
            + (" (may run without asking)" if app.toolbox.may_run(name) else "")
            for name in known
        ]
        app.say("\n".join(lines) or "There are no tools.")
        return
    words = argument.replace(",", " ").split()
    chosen = known if words == ["all"] else [] if words == ["none"] else words
    unknown = [name for name in chosen if name not in known]
    if unknown:
        app.say(f"There is no tool {', '.join(unknown)}. There are: {', '.join(known)}")
        return
    app.toolbox.offered = set(chosen)
    app.say(f"Offered from the next question on: {', '.join(chosen) or 'none'}")


@command("allow", "let a tool run in this chat without being asked", "NAME", _names)
async def allow(app: "ChatApp", argument: str) -> None:
    if argument not in _names(app):
        app.say(f"There is no tool {argument or '(none named)'}. There are: {', '.join(_names(app))}")
        return
    app.toolbox.allowed_here.add(argument)
    app.say(f"{argument} may run in this chat without being asked.")


@command("ask", "ask again before every tool")
async def ask(app: "ChatApp", argument: str) -> None:
    app.toolbox.allowed.clear()
    app.toolbox.allowed_here.clear()
    app.say("Every tool is asked for from now on.")
