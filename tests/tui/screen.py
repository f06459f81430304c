"""A chat under test: the app without a terminal, and what is on its screen."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Static

from tests.tui.fake_engine import FakeEngine
from tui.app import ChatApp
from tui.conversation import ChatSettings
from tui.launch import Launch
from tui.prompt import Prompt
from tui.views.answer import Answer
from tui.views.answer_text import AnswerText


@dataclass
class Chat:
    """The app, its engine and the keyboard. `told` are the messages in the corner, which go away by themselves."""

    app: ChatApp
    engine: FakeEngine
    pilot: Pilot[None]
    told: list[str]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait for what the test is about, whatever the machine is busy with."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self.pilot.pause(0.01)

    async def shows(self, *texts: str) -> None:
        """Wait until all of `texts` can be read on the screen."""
        try:
            await self.until(lambda: all(text in self.screen_text() for text in texts))
        except TimeoutError as error:
            missing = [text for text in texts if text not in self.screen_text()]
            raise AssertionError(f"not on the screen: {missing}\n{self.screen_text()}") from error

    async def send(self, text: str) -> None:
        """Write into the box and press Enter."""
        self.app.query_one(Prompt).text = text
        await self.pilot.press("enter")

    async def ask(self, text: str) -> str:
        """Send, wait for the end; returns the answer's Markdown."""
        await self.until(lambda: not self.app.busy)
        asked = len(self.engine.requests)
        await self.send(text)
        await self.until(lambda: len(self.engine.requests) > asked and not self.app.busy)
        return self.answers[-1] if self.answers else ""

    @property
    def answers(self) -> list[str]:
        return [text.source for text in self.app.query(AnswerText)]

    @property
    def status(self) -> str:
        return self.text_of("#status")

    @property
    def errors(self) -> list[str]:
        return [str(widget.render()) for widget in self.app.query(".error").results(Static)]

    @property
    def prompt(self) -> Prompt:
        return self.app.query_one(Prompt)

    @property
    def last_answer(self) -> Answer:
        return self.app.query(Answer).last()

    @property
    def gauge(self) -> str:
        return self.text_of("#gauge")

    async def ready(self) -> None:
        """Wait until the model is loaded."""
        await self.until(lambda: self.status == "ready" and not self.app.busy)

    async def command(self, text: str) -> None:
        """Write a command and run it."""
        await self.send(text)
        await self.pilot.pause()

    def text_of(self, selector: str) -> str:
        return str(self.app.query_one(selector, Static).render())

    def screen_text(self) -> str:
        """The characters on the screen, as a person sees them."""
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in lines)


@asynccontextmanager
async def chat(
    engine: FakeEngine,
    settings: ChatSettings | None = None,
    size: tuple[int, int] = (80, 24),
    **launch: Any,
) -> AsyncIterator[Chat]:
    """A running app of 80 x 24 characters; at the end no two answers may have overlapped. Saves nothing by itself."""
    app = ChatApp(Launch(lambda choice: engine, settings or ChatSettings(), **launch))
    told: list[str] = []
    notify = app.notify
    app.notify = lambda message, **options: (told.append(message), notify(message, **options))  # type: ignore
    async with app.run_test(size=size) as pilot:
        yield Chat(app, engine, pilot, told)
    engine.close()
    assert not engine.overlapped
