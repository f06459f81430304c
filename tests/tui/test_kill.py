"""A kill in the middle of an answer: the database opens, and at most the last second of text is lost."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tui.sessions.store import SessionStore

KILLS = 50
LOST_S = 1.0

# Streams numbered words at 200 a second, and tells the other side of the pipe about each one, with the time.
CHILD = """
import asyncio, os, sys, time
from pathlib import Path
from k2lite.events import Token
from tests.tui.fake_engine import FakeEngine, Script, says
from tui.app import ChatApp
from tui.launch import Launch

class Telling(FakeEngine):
    def generate(self, request, stop):
        for event in super().generate(request, stop):
            yield event
            if isinstance(event, Token):
                os.write(1, f"{event.text.strip()} {time.time()}\\n".encode())

async def main():
    script = Script([("answer", f"w{n} ") for n in range(100_000)], delay_s=0.005)
    app = ChatApp(Launch(lambda choice: Telling([script]), database=Path(sys.argv[1])))
    async with app.run_test(size=(80, 24)) as pilot:
        while app.busy:
            await pilot.pause(0.01)
        app.actions.send("question")
        while True:
            await pilot.pause(0.1)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills_lose_at_most_a_second_each(tmp_path: Path) -> None:
    database = tmp_path / "chats.db"
    rng = random.Random(7)
    worst = 0.0
    for number in range(KILLS):
        told = kill_while_streaming(tmp_path, database, rng.uniform(0.3, 2.0))
        killed_at = max(time_ for _, time_ in told)
        connection = sqlite3.connect(database)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        connection.close()
        store = SessionStore(database)
        assert store.notice == ""
        chats = store.chats()
        assert len(chats) == number + 1
        saved = store.entries(chats[0].id)
        store.close()
        assert saved[0].entry.message.content == "question"
        words = saved[1].entry.message.content.split() if len(saved) > 1 else []
        assert words == [f"w{n}" for n in range(len(words))]
        lost = [time_ for word, time_ in told if int(word[1:]) >= len(words)]
        worst = max(worst, killed_at - min(lost)) if lost else worst
    print(f"{KILLS} kills: the database opened every time, at most {worst:.2f} s of text were lost")
    assert worst <= LOST_S


def kill_while_streaming(folder: Path, database: Path, after_s: float) -> list[tuple[str, float]]:
    """Kill a chat `after_s` seconds after its first word; returns the words it had got, with their times."""
    output = folder / "told"
    with output.open("wb") as file:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(database)], stdout=file, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while output.stat().st_size == 0:
            assert child.poll() is None and time.monotonic() < deadline, "the chat did not start"
            time.sleep(0.01)
        time.sleep(after_s)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    lines = output.read_text().splitlines(keepends=True)
    return [(line.split()[0], float(line.split()[1])) for line in lines if line.endswith("\n")]
