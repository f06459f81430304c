"""Commands about the model and the machine: which one, where it lies, how full the context is."""

from pathlib import Path
from typing import TYPE_CHECKING

from tui.commands.registry import command
from tui.engine_slot import ModelChoice

if TYPE_CHECKING:
    from tui.app import ChatApp


@command("experts", "show or hide the map of the experts")
async def experts(app: "ChatApp", argument: str) -> None:
    app.actions.toggle_experts()


@command("plan", "show what goes where on this machine, and how fast it will be")
async def plan(app: "ChatApp", argument: str) -> None:
    from tui.screens.plan import PlanScreen

    path = Path(argument).expanduser() if argument else app.slot.choice.path
    await app.push_screen(PlanScreen(ModelChoice(path, app.slot.choice.options)))


@command("model", "load another model: a GGUF file, or pick one", "[FILE]", idle=True)
async def model(app: "ChatApp", argument: str) -> None:
    from tui.screens.models import ModelsScreen

    if argument:
        chosen: ModelChoice | None = ModelChoice(Path(argument).expanduser(), app.slot.choice.options)
    else:
        chosen = await app.push_screen_wait(ModelsScreen(app.launch.models_folder, app.slot.choice))
    if chosen is not None:
        await app.actions.change_model(chosen)


@command("restart", "start the engine anew", idle=True)
async def restart(app: "ChatApp", argument: str) -> None:
    await app.actions.change_model(app.slot.choice)


@command("compact", "make room: a summary instead of the older messages", idle=True)
async def compact(app: "ChatApp", argument: str) -> None:
    await app.actions.make_room("summarise")


@command("drop", "make room: leave out the oldest messages from now on", idle=True)
async def drop(app: "ChatApp", argument: str) -> None:
    await app.actions.make_room("drop")
