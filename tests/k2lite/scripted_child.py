"""An engine child whose model answers from a script: `python -m tests.k2lite.scripted_child [die]`.

Asked for "crash" it raises an error that is no K2Error, asked for "kill" it is killed as the system kills a process
that takes too much memory. Each token takes a hundredth of a second.
"""

import os
import signal
import time
from pathlib import Path

from k2lite.engine import LocalEngine
from k2lite.engine_child import EngineServer, claim_pipes
from k2lite.engine_options import EngineOptions
from tests.k2lite.fakes import ScriptedModel, ids_of, scripted_engine

REPLY = "the quick brown fox jumps over the lazy dog<|im_end|>"


class Moody(ScriptedModel):
    """Looks at what it is asked before it answers."""

    def forward(self, ids, cache, *, last_only=True):  # type: ignore[no-untyped-def]
        time.sleep(0.01)
        if ids.tolist()[: len(CRASH)] == CRASH:
            raise ZeroDivisionError("the model divided by zero")
        if ids.tolist()[: len(KILL)] == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(ids, cache, last_only=last_only)


CRASH, KILL = ids_of("crash"), ids_of("kill")


def make_engine(path: Path | None, options: EngineOptions) -> LocalEngine:
    print("printed by a library that knows nothing of the pipe")
    return scripted_engine(Moody(REPLY), context_tokens=options.context_tokens or 512)


if __name__ == "__main__":
    EngineServer(*claim_pipes(), make_engine).serve()
