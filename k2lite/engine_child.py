"""The engine's own process: `python -m k2lite.engine_child`, commands on stdin, events on stdout, one JSON per line.

Commands: {"command": "load", "path", "options"}, {"command": "generate", "number", "request"} and
{"command": "stop", "number"}. The answer to load ends with EngineInfo, the answer to generate with Finished, both also
with an error. The process ends when its stdin does: when the screen is gone, in whatever way, so is the engine.
"""

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from k2lite import wire
from k2lite.engine_options import EngineOptions
from k2lite.environment import prepare_threads
from k2lite.events import Engine
from k2lite.head_start import make_local_engine
from quant.errors import EngineError, K2Error

EngineFactory = Callable[[Path | None, EngineOptions], Engine]
Command = dict[str, Any]


class EngineServer:
    """Serves one engine over two streams. The main thread works, a second one listens for stop and for the end."""

    def __init__(self, commands: TextIO, events: TextIO, make_engine: EngineFactory) -> None:
        self._commands, self._events, self._make_engine = commands, events, make_engine
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stops: dict[int, threading.Event] = {}
        self._engine: Engine | None = None

    def serve(self) -> None:
        """Works until the process ends. An error that is no K2Error ends it, with its traceback on stderr."""
        threading.Thread(target=self._listen, name="k2lite-listen", daemon=True).start()
        handlers = {"load": self._load, "generate": self._generate}
        while True:
            command = self._inbox.get()
            try:
                for answer in handlers[command["command"]](command):
                    self._send(answer)
            except K2Error as error:
                self._send(error)

    def _listen(self) -> None:
        for line in self._commands:
            command = json.loads(line)
            if command["command"] == "stop":
                if stop := self._stops.get(command["number"]):
                    stop.set()
                continue
            if command["command"] == "generate":
                self._stops = {command["number"]: threading.Event()}
            self._inbox.put(command)
        # Nobody reads any more. Nothing here needs saving, and a load under way could take minutes to return.
        os._exit(0)

    def _load(self, command: Command) -> Iterator[wire.Answer]:
        path = None if command["path"] is None else Path(command["path"])
        engine = self._make_engine(path, EngineOptions(**command["options"]))
        yield from engine.load()
        self._engine = engine
        yield engine.info()

    def _generate(self, command: Command) -> Iterator[wire.Answer]:
        if self._engine is None:
            raise EngineError("no model is loaded: load one first")
        yield from self._engine.generate(wire.decode_request(command["request"]), self._stops[command["number"]])

    def _send(self, answer: wire.Answer) -> None:
        self._events.write(wire.dump_line(wire.encode(answer)))
        self._events.flush()


def claim_pipes() -> tuple[TextIO, TextIO]:
    """The two pipes as text. Whatever else is printed, by native libraries too, goes to stderr instead of the pipe."""
    commands = os.fdopen(os.dup(0), "r", encoding="utf-8")
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return commands, events


def main() -> None:
    prepare_threads()
    EngineServer(*claim_pipes(), make_local_engine).serve()


if __name__ == "__main__":
    main()
