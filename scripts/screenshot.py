"""Makes the picture of the README with the demo model: `python -m scripts.screenshot docs/screen.svg`."""

import argparse
import asyncio
from pathlib import Path

from textual.pilot import Pilot

from k2lite.engine_process import ProcessEngine
from tui.app import ChatApp
from tui.conversation import ChatSettings
from tui.prompt import Prompt

QUESTIONS = ("hello!", "How do I quantize Kimi K2?", "How much memory does K2 need?")
PATIENCE_S = 120


async def settle(pilot: Pilot[None]) -> None:
    """Wait until the app is no longer busy with the model or an answer."""
    app = pilot.app
    assert isinstance(app, ChatApp)
    async with asyncio.timeout(PATIENCE_S):
        while app.busy:
            await pilot.pause(0.05)
    await pilot.pause(0.3)


async def picture(width: int, height: int) -> str:
    """The screen as SVG after the QUESTIONS were answered at temperature 0."""
    engine = ProcessEngine(None)
    app = ChatApp(engine, ChatSettings(sampling={"temperature": 0.0}))
    try:
        async with app.run_test(size=(width, height)) as pilot:
            await settle(pilot)
            for question in QUESTIONS:
                app.query_one(Prompt).text = question
                await pilot.press("enter")
                await pilot.pause(0.2)
                await settle(pilot)
            return app.export_screenshot(title="k2lite chat")
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", default="100x30", help="columns x rows (default: %(default)s)")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    options.path.write_text(asyncio.run(picture(width, height)))


if __name__ == "__main__":
    main()
