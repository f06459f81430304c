"""The engine that the chat talks to: loading it, loading it again after its death, changing it for another one."""

import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from k2lite.engine_options import EngineOptions
from k2lite.events import Engine, EngineInfo, Event, LoadProgress, Request
from tui.engine_thread import EngineThread
from tui.pacing import RateMeter, metered


@dataclass(frozen=True)
class ModelChoice:
    """What is loaded, or shall be. `path` None is the built-in demo model."""

    path: Path | None = None
    options: EngineOptions = field(default_factory=EngineOptions)


EngineMaker = Callable[[ModelChoice], Engine]


class EngineSlot:
    """Owns the engine and the thread it works in. `info` is None while no model is loaded."""

    def __init__(self, make: EngineMaker, choice: ModelChoice) -> None:
        self._make = make
        self._thread = EngineThread()
        self.choice = choice
        self.engine = make(choice)
        self.info: EngineInfo | None = None

    async def load(self) -> AsyncIterator[LoadProgress]:
        """Load the model; `info` is there afterwards. Raises K2Error."""
        self.info = None
        async for progress in self._thread.iterate(self.engine.load):
            yield progress
        self.info = self.engine.info()

    def lost(self) -> None:
        """The engine has died: it has to be loaded again."""
        self.info = None

    async def change(self, choice: ModelChoice) -> None:
        """Give the model up and take another one, which is not loaded yet. Waits for the old engine's end."""
        old = self.engine
        self.info = None
        await self._thread.run(old.close)
        self.choice = choice
        self.engine = self._make(choice)

    async def answer(self, request: Request, stop: threading.Event, meter: RateMeter) -> AsyncIterator[Event]:
        """The events of an answer, tokens counted as they come. Raises K2Error."""
        async for event in self._thread.iterate(lambda: metered(self.engine.generate(request, stop), meter)):
            yield event

    def close(self) -> None:
        """Take no more work. The engine itself is closed by `end`, when the screen is gone."""
        self._thread.close()

    def end(self) -> None:
        """Close the engine; takes seconds when it is in the middle of something."""
        self.engine.close()
