"""A side's own process: `python -m k2lite.bench.child SIDE`, commands on stdin, answers on stdout, one JSON per line.

{"command": name, ...} calls the side's method of that name; the answer is {"result": {...}} or {"error": ...}.
The process ends with its stdin or its parent, also while it is stopped.
"""

import ctypes
import importlib
import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

from k2lite import wire
from k2lite.engine_child import claim_pipes
from k2lite.environment import prepare_threads
from quant.errors import K2Error

# Who can be measured: module and class. Imported only in the process of that side.
SIDES = {
    "k2lite": ("k2lite.bench.engine_side", "EngineSide"),
    "profile": ("k2lite.bench.profile_side", "ProfileSide"),
    "llama.cpp": ("k2lite.bench.llama_side", "LlamaSide"),
    "roof": ("k2lite.bench.roof", "RoofSide"),
}
COMMANDS = ("load", "choose", "decode", "prefill", "first", "roof", "profile", "facts")

_PR_SET_PDEATHSIG = 1


def serve(side: Any, commands: TextIO, answers: TextIO) -> None:
    """Answer commands one after the other. An error that is no K2Error ends the process, with a traceback."""
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands, inbox), name="k2lite-listen", daemon=True).start()

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    while True:
        arguments = inbox.get()
        name = arguments.pop("command")
        assert name in COMMANDS, name
        try:
            send({"result": getattr(side, name)(**arguments)})
        except K2Error as error:
            send({"error": wire.encode(error)})


def _listen(commands: TextIO, inbox: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in commands:
        inbox.put(json.loads(line))
    os._exit(0)  # nobody reads any more, and nothing here needs saving


def _die_with_parent(parent: int) -> None:
    """A stopped process does not see that its stdin ends, and would keep its memory for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(0)


def main() -> None:
    name, parent = sys.argv[1:]
    _die_with_parent(int(parent))
    if name != "llama.cpp":  # its threads wait as it likes best
        prepare_threads()
    pipes = claim_pipes()
    module, kind = SIDES[name]
    serve(getattr(importlib.import_module(module), kind)(), *pipes)


if __name__ == "__main__":
    main()
