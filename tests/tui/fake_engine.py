"""An engine for the screen's tests: scripted events, and a complaint when two answers overlap."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from k2lite.events import (
    Channel,
    EngineInfo,
    Finished,
    FinishReason,
    LoadProgress,
    PrefillProgress,
    Request,
    Sampling,
    Token,
    ToolCall,
)
from quant.errors import K2Error

INFO = EngineInfo("fake model", 1000, 2**30, "Q4_K", Sampling(temperature=0.5))
PROMPT_TOKENS = 10
WAIT_S = 60  # far longer than a test waits for what comes of it


@dataclass
class Script:
    """One answer: `pieces` are (channel, text) of one token each, then comes `error` or the end.

    With `waits` the answer stays open after its last piece until it is stopped, or the engine's `go_on` is set.
    `calls` are the tools that it asks for at its end, `news` events that come before the first piece.
    """

    pieces: Sequence[tuple[Channel, str]] = ()
    error: K2Error | None = None
    waits: bool = False
    prefill: Sequence[PrefillProgress] = ()
    calls: tuple[ToolCall, ...] = ()
    news: Sequence[Any] = ()
    delay_s: float = 0.0


def says(text: str, size: int = 4) -> list[tuple[Channel, str]]:
    """Pieces of the answer `text`, `size` characters each."""
    return [("answer", text[i : i + size]) for i in range(0, len(text), size)]


@dataclass
class FakeEngine:
    """Implements events.Engine. `requests` are those it was asked; `overlapped` must stay False.

    `waiting` is set once all pieces of a script that waits are out.
    """

    scripts: list[Script] = field(default_factory=list)
    load_errors: list[K2Error] = field(default_factory=list)
    loading: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)
    loads: int = 0
    overlapped: bool = False
    running: int = 0
    waiting: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    info_: EngineInfo = INFO

    def __post_init__(self) -> None:
        self.loading.set()

    def load(self) -> Iterator[LoadProgress]:
        """Loads at once, unless a test has cleared `loading`: then after half of the bytes it waits for it."""
        self.loads += 1
        yield LoadProgress(2**29, 2**30)
        self.loading.wait(WAIT_S)
        if self.load_errors:
            raise self.load_errors.pop(0)

    def info(self) -> EngineInfo:
        return self.info_

    def generate(self, request: Request, stop: threading.Event) -> Iterator[PrefillProgress | Token | Finished]:
        self.overlapped |= self.running > 0
        self.running += 1
        try:
            self.requests.append(request)
            yield from self._play(self.scripts.pop(0), stop)
        finally:
            self.running -= 1

    def close(self) -> None:
        self.loading.set()

    def _play(self, script: Script, stop: threading.Event) -> Iterator[PrefillProgress | Token | Finished]:
        yield PrefillProgress(PROMPT_TOKENS, PROMPT_TOKENS, 0, 0.1)
        yield from script.prefill
        yield from script.news
        shown: list[tuple[Channel, str]] = []
        for channel, text in script.pieces:
            if stop.is_set():
                break
            if script.delay_s:
                stop.wait(script.delay_s)
            shown.append((channel, text))
            yield Token(len(shown), text, channel)
        if script.error is not None:
            raise script.error
        if script.waits:
            self.waiting.set()
            while not (stop.wait(0.01) or self.go_on.is_set()):
                pass
        yield _finished(shown, "cancelled" if stop.is_set() else "stop", script.calls)


def _finished(shown: list[tuple[Channel, str]], reason: FinishReason, calls: tuple[ToolCall, ...]) -> Finished:
    def joined(wanted: Channel) -> str:
        return "".join(text for channel, text in shown if channel == wanted)

    return Finished(reason, joined("answer"), joined("think"), calls, PROMPT_TOKENS, 0, len(shown), 0.1, 1.0, 5)
