"""Pictures of the chat with the demo model: `python -m scripts.screenshot docs/screens`.

Writes one SVG for every scene and size, and a PNG beside it where cairosvg is installed (it is in no requirement;
`pip install cairosvg`, and a font with box characters such as fonts-dejavu-core). The README shows one of them.
TEXTUAL_COLOR_SYSTEM=truecolor in the environment gives the map its colours, which Textual takes from the terminal.
"""

import argparse
import asyncio
import os
import re
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from textual.pilot import Pilot
from textual.widgets import Static

from k2lite.engine_process import ProcessEngine
from tui.app import ChatApp
from tui.conversation import ChatSettings
from tui.launch import Launch
from tui.prompt import Prompt

SIZES = ((80, 24), (160, 48))
PATIENCE_S = 600

# For the map: two cards, RAM and the drive, none of which holds all experts.
FEW_PLACES: dict[str, Any] = {"devices": "virtual:2x3M", "ram_budget_bytes": 9 << 20}

Scene = Callable[["Player"], Awaitable[None]]


class Player:
    """Plays a scene: types, waits."""

    def __init__(self, app: ChatApp, pilot: Pilot[None], folder: Path) -> None:
        self.app, self.pilot, self.folder = app, pilot, folder

    async def settle(self) -> None:
        """Wait until the app is no longer busy with the model or an answer."""
        async with asyncio.timeout(PATIENCE_S):
            while self.app.busy and not self.app.status_text.startswith("the model wants"):
                await self.pilot.pause(0.05)
        await self.pilot.pause(0.4)

    async def ask(self, text: str) -> None:
        self.app.query_one(Prompt).text = text
        await self.pilot.press("enter")
        await self.pilot.pause(0.2)
        await self.settle()

    @property
    def shown(self) -> str:
        """What the dialog on the screen says."""
        return "\n".join(str(field.render()) for field in self.app.screen.query(Static))

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause(0.5)


async def talk(player: Player) -> None:
    for question in ("hello!", "How do I quantize Kimi K2?", "How much memory does K2 need?"):
        await player.ask(question)


async def tool(player: Player) -> None:
    folder = player.folder / "docs"
    folder.mkdir()
    for name in ("notes.txt", "plan.md"):
        (folder / name).touch()
    await player.ask("List the folder docs")


async def experts(player: Player) -> None:
    await player.press("f2")
    await talk(player)


async def branches(player: Player) -> None:
    await talk(player)
    await player.ask("/edit 2")
    await player.ask("What is an expert?")


async def search(player: Player) -> None:
    await talk(player)
    await player.ask("/search memory")


async def settings(player: Player) -> None:
    await player.press("f4")


async def plan(player: Player) -> None:
    await player.press("f3")
    async with asyncio.timeout(PATIENCE_S):
        while "measuring" in player.shown:
            await player.pilot.pause(0.1)


async def models(player: Player) -> None:
    await player.press("f5")
    await player.settle()


async def loading(player: Player) -> None:
    """The very first start: the demo model is being quantized."""
    async with asyncio.timeout(PATIENCE_S):
        while not re.search(r"\(once\).*\([2-9]\d %\)", player.app.status_text):
            await player.pilot.pause(0.01)


async def prompts(player: Player) -> None:
    await player.press("ctrl+l")


async def commands(player: Player) -> None:
    await player.pilot.press("slash", "e")
    await player.pilot.pause(0.5)


async def help_screen(player: Player) -> None:
    await player.press("f1")


SCENES: dict[str, Scene] = {
    "talk": talk, "tool": tool, "experts": experts, "branches": branches, "search": search,
    "settings": settings, "models": models, "plan": plan, "loading": loading, "prompts": prompts,
    "commands": commands, "help": help_screen,
}  # fmt: skip


async def picture(scene: Scene, width: int, height: int) -> str:
    """The screen as SVG after a scene was played at temperature 0."""
    with (
        tempfile.TemporaryDirectory() as name,
        patch.dict(os.environ, {"K2LITE_HOME": name} if scene is loading else {}),
    ):
        folder, places = Path(name), FEW_PLACES if scene is experts else {}
        launch = Launch(
            lambda choice: ProcessEngine(choice.path, replace(choice.options, **places)),
            ChatSettings(sampling={"temperature": 0.0}),
            database=folder / "chats.db",
            tools=("list_folder",) if scene is tool else (),
        )
        app = ChatApp(launch)
        try:
            async with app.run_test(size=(width, height)) as pilot:
                player = Player(app, pilot, folder)
                if scene is not loading:
                    await player.settle()
                await scene(player)
                return stable(app.export_screenshot(title="k2lite chat"))
        finally:
            app.slot.end()


def stable(svg: str) -> str:
    """The same picture again gives the same file: without the random number that its class names have."""
    return re.sub(r"terminal-\d+", "terminal-1", svg)


def write_png(svg: str, path: Path) -> bool:
    """False where cairosvg is missing."""
    try:
        import cairosvg
    except ImportError:
        return False
    cairosvg.svg2png(bytestring=with_local_font(svg).encode(), write_to=str(path), scale=1.0)
    return True


def with_local_font(svg: str) -> str:
    """Fonts of the web are not loaded for a PNG: one of this machine, as wide as the cells are."""
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "DejaVu Sans Mono")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scene", choices=tuple(SCENES), action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.scene or SCENES:
        for width, height in SIZES:
            path = options.folder / f"{name}-{width}x{height}.svg"
            svg = asyncio.run(picture(SCENES[name], width, height))
            path.write_text(svg)
            png = write_png(svg, path.with_suffix(".png"))
            print(f"{path}{' and .png' if png else ', no PNG without cairosvg'}")


if __name__ == "__main__":
    main()
