"""What the chat's screen costs: `python -m benchmarks.screen`.

A fake engine streams 2,000 tokens at 200 a second into a real terminal's driver (a pseudo-terminal that somebody
empties), with the app in a process of its own, as it is used. Measured are the processor time of the whole process,
how late the event loop is (it is asked every 5 ms), and that every token is drawn. `--answer list` streams lists of
forty items instead of prose, `--answer code` one block of two hundred lines, `--answer line` one token that is a line
of a million characters; `--load` lets a load go before, with progress 20 times a second.
"""

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Iterator

from benchmarks.in_terminal import Figures, play_beside, report, run_in_terminal
from k2lite.events import (
    EngineInfo,
    Finished,
    LoadProgress,
    PrefillProgress,
    Request,
    Sampling,
    Token,
)

TOKENS, TOKENS_PER_S = 2000, 200
_ASKED_EVERY_S = 0.005
_PROSE = (
    "Experts",
    " that",
    " are",
    " used",
    " often",
    " stay",
    " on",
    " a",
    " **card**",
    ",",
    " the",
    " `rest`",
    " in",
    " RAM",
    ".",
)


class SteadyEngine:
    """Implements events.Engine: tokens at an even pace, whoever reads them."""

    def __init__(self, pieces: list[str], load_s: float) -> None:
        self._pieces, self._load_s = pieces, load_s

    def load(self) -> Iterator[LoadProgress]:
        steps = round(self._load_s * 20)
        for step in range(steps):
            time.sleep(0.05)
            yield LoadProgress(step * 2**30, steps * 2**30)

    def info(self) -> EngineInfo:
        return EngineInfo("steady", 100_000, 2**30, "none", Sampling())

    def generate(self, request: Request, stop: threading.Event) -> Iterator[PrefillProgress | Token | Finished]:
        yield PrefillProgress(10, 10, 0, 0.1)
        started = time.perf_counter()
        for number, piece in enumerate(self._pieces):
            time.sleep(max(0.0, started + number / TOKENS_PER_S - time.perf_counter()))
            yield Token(number, piece, "answer")
        seconds = time.perf_counter() - started
        yield Finished("stop", "".join(self._pieces), "", (), 10, 0, len(self._pieces), 0.1, seconds, 0)

    def close(self) -> None:
        pass


def pieces_of(kind: str) -> list[str]:
    """The tokens of an answer."""
    if kind == "line":
        return ["word " * 200_000]
    if kind == "code":
        line = ["    total", " +=", " expert", ".bytes", "[", "layer", "]", "  # held", " in RAM", "\n"]
        return ["```python\n", *line * (TOKENS // len(line)), "```\n"]
    if kind == "list":
        item = ["- ", "**Item**", " with", " some", " words", " and", " `code`", " in", " it", "\n"]
        block = item * 40 + ["\n", "And", " on", ".", "\n\n"]
        return (block * (TOKENS // len(block) + 1))[:TOKENS]
    words = [
        word if number % 90 else f"{word}\n\n" for number, word in enumerate(_PROSE * (TOKENS // len(_PROSE) + 1), 1)
    ]
    return words[:TOKENS]


async def measure(kind: str, load_s: float) -> Figures:
    """Run the app in this process, on the terminal it has; returns the figures."""
    from tui.app import ChatApp
    from tui.launch import Launch
    from tui.views.answer_text import AnswerText
    from tui.views.settled import LineBreaker

    pieces = pieces_of(kind)
    engine = SteadyEngine(pieces, load_s)
    app = ChatApp(Launch(lambda choice: engine))
    late: list[float] = []
    figures: Figures = {}

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_ASKED_EVERY_S)
            late.append(time.perf_counter() - before - _ASKED_EVERY_S)

    async def play() -> None:
        await asyncio.sleep(0.3 if load_s else 1.0)
        watching = asyncio.ensure_future(watch())
        busy, began = time.process_time(), time.perf_counter()
        app.actions.send("go")
        while app.busy or app.actions.queue:
            await asyncio.sleep(0.05)
        seconds = time.perf_counter() - began
        busy = time.process_time() - busy
        watching.cancel()
        late.sort()
        drawn, shown = app.query(AnswerText).last().source, LineBreaker()
        figures.update(
            answer=kind,
            tokens=len(pieces),
            seconds=round(seconds, 2),
            all_drawn=drawn == shown.push("".join(pieces)) + shown.finish(),
            stall_p99_ms=round(1000 * late[len(late) * 99 // 100], 1),
            stall_longest_ms=round(1000 * late[-1], 1),
            cpu_share_of_a_core=round(busy / seconds, 3),
        )

    await play_beside(app, play)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answer", choices=("prose", "list", "code", "line"), default="prose")
    parser.add_argument("--load", type=float, default=0.0, metavar="SECONDS", help="load for so long before")
    parser.add_argument("--size", default="120x40", help="columns x rows (default: %(default)s)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        report(options.child, asyncio.run(measure(options.answer, options.load)))
        return
    columns, rows = map(int, options.size.split("x"))
    arguments = ["--answer", options.answer, "--load", str(options.load)]
    print(json.dumps(run_in_terminal("benchmarks.screen", arguments, columns, rows)))


if __name__ == "__main__":
    main()
