"""The commands of the chat: what one writes behind a slash, finds in the palette, and can bind to keys."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.completion import Offer

if TYPE_CHECKING:
    from tui.app import ChatApp

Run = Callable[["ChatApp", str], Awaitable[None]]
Values = Callable[["ChatApp"], list[str]]


@dataclass(frozen=True)
class Command:
    """`argument` is what may stand behind the name, "" when nothing; `values` are those that are offered for it.

    `idle` commands are refused while the model loads or an answer is under way.
    """

    name: str
    summary: str
    run: Run
    argument: str = ""
    values: Values | None = None
    idle: bool = False

    @property
    def title(self) -> str:
        """As in the palette."""
        return self.summary[0].upper() + self.summary[1:]


COMMANDS: dict[str, Command] = {}


def command(
    name: str, summary: str, argument: str = "", values: Values | None = None, idle: bool = False
) -> Callable[[Run], Run]:
    """Register the decorated function under `name`."""

    def register(run: Run) -> Run:
        assert name not in COMMANDS, f"two commands are called {name}"
        COMMANDS[name] = Command(name, summary, run, argument, values, idle)
        return run

    return register


def split(text: str) -> tuple[str, str]:
    """Name and argument of "/name argument"."""
    name, _, argument = text.strip().removeprefix("/").partition(" ")
    return name, argument.strip()


def offers(app: "ChatApp", text: str) -> list[Offer]:
    """The commands that `text` may become; behind a name, its values."""
    if not text.startswith("/") or "\n" in text:
        return []
    name, space, argument = text[1:].partition(" ")
    if not space:
        return [
            Offer(
                f"/{found.name} " if found.argument else f"/{found.name}",
                f"/{found.name} {found.argument}".strip(),
                found.summary,
            )
            for found in sorted(COMMANDS.values(), key=lambda found: found.name)
            if found.name.startswith(name) and found.name != name
        ]
    known = COMMANDS.get(name)
    values = known.values(app) if known is not None and known.values is not None else []
    return [Offer(f"/{name} {value}", value) for value in values if value.startswith(argument) and value != argument]
