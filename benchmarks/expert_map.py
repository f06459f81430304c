"""What the expert map costs: `python -m benchmarks.expert_map`.

The chat runs in a real terminal's driver (a pseudo-terminal that somebody empties) with the panel open, and gets two
reports a second of Kimi K2's 60 x 384 experts on four cards, RAM and a drive, as an engine sends them. Measured is the
processor time of the whole process, drawing and laying out included, and of the same chat before without reports.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence

from benchmarks.in_terminal import Figures, play_beside, report, run_in_terminal
from benchmarks.screen import SteadyEngine
from k2lite.events import ExpertReport
from tests.tui.experts.reports import k2_report

REPORTS_PER_S = 2


async def measure(seconds: float) -> Figures:
    """Run the app in this process, on the terminal it has; returns the figures."""
    from tui.app import ChatApp
    from tui.launch import Launch

    engine = SteadyEngine([], load_s=0)
    app = ChatApp(Launch(lambda choice: engine, experts=True))
    reports = [k2_report(step) for step in range(round(seconds * REPORTS_PER_S) + 1)]
    figures: Figures = {}

    async def play() -> None:
        await asyncio.sleep(1)
        while app.busy:
            await asyncio.sleep(0.05)
        app.show_report(reports[0])
        await asyncio.sleep(1)
        quiet = await share_of_a_core([None] * len(reports[1:]))
        busy = await share_of_a_core(reports[1:])
        figures.update(seconds=seconds, cpu_share_without=round(quiet, 3), cpu_share_of_a_core=round(busy, 3))

    async def share_of_a_core(shown: Sequence[ExpertReport | None]) -> float:
        busy, began = time.process_time(), time.monotonic()
        for one in shown:
            if one is not None:
                app.show_report(one)
            await asyncio.sleep(1 / REPORTS_PER_S)
        return (time.process_time() - busy) / (time.monotonic() - began)

    await play_beside(app, play)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--size", default="480x80", help="columns x rows (default: %(default)s)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        report(options.child, asyncio.run(measure(options.seconds)))
        return
    columns, rows = map(int, options.size.split("x"))
    arguments = ["--seconds", str(options.seconds)]
    print(json.dumps(run_in_terminal("benchmarks.expert_map", arguments, columns, rows)))


if __name__ == "__main__":
    main()
