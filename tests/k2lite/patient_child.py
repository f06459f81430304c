"""An engine child that leaves its first answer open after two tokens until it is stopped; the others are whole."""

from collections.abc import Iterator

from k2lite import wire
from k2lite.engine_child import Command, EngineServer, claim_pipes
from k2lite.events import Token
from tests.k2lite.scripted_child import make_engine

WAIT_S = 100  # far longer than a stop takes on a busy machine


class PatientServer(EngineServer):
    """Nobody can come too late to stop the first answer."""

    def _generate(self, command: Command) -> Iterator[wire.Answer]:
        tokens = 0
        for event in super()._generate(command):
            yield event
            if isinstance(event, Token) and command["number"] == 1:
                tokens += 1
                if tokens == 2:
                    self._stops[1].wait(WAIT_S)


if __name__ == "__main__":
    PatientServer(*claim_pipes(), make_engine).serve()
