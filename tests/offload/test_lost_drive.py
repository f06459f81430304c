"""The drive is pulled out while an answer runs: one clear line, no wrong token, no hang; and it may come back."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from k2lite.engine import LocalEngine
from k2lite.engine_options import EngineOptions
from k2lite.environment import child_environment
from k2lite.events import Message, Request, Sampling, Token
from quant.errors import RequestError, StoreError
from tests.offload.lost_drive import LoopDrive, loop_drive

PATIENCE_S = 300
QUESTION = Request(messages=(Message("user", "What is an expert?"),), sampling=Sampling(temperature=0), max_tokens=40)
LOST = r"cannot read .*Input/output error: check the drive"


@pytest.fixture
def drive(demo_file: Path, tmp_path: Path) -> Iterator[LoopDrive]:
    with loop_drive(demo_file, tmp_path) as drive:
        yield drive


def smallest_budget(path: Path) -> int:
    with pytest.raises(RequestError) as refused:
        list(LocalEngine(path, EngineOptions(ram_budget_bytes=1)).load())
    found = re.search(r"--ram-budget (\d+) or more", str(refused.value))
    assert found is not None
    return int(found[1])


def test_a_drive_that_fails_in_an_answer_is_told_and_may_come_back(drive: LoopDrive, demo_file: Path) -> None:
    path = drive.folder / demo_file.name
    engine = LocalEngine(path, EngineOptions(ram_budget_bytes=smallest_budget(path) + 500_000))
    list(engine.load())

    def answer(fail_after: int | None = None) -> tuple[list[int | None], str]:
        """Ids of the tokens, and the error with which it ended."""
        ids: list[int | None] = []
        try:
            for event in engine.generate(QUESTION, threading.Event()):
                if isinstance(event, Token):
                    ids.append(event.id)
                    if len(ids) == fail_after:
                        drive.fail()
        except StoreError as error:
            return ids, str(error)
        return ids, ""

    outcomes: list[tuple[list[int | None], str]] = []

    def work() -> None:
        outcomes.extend((answer(), answer(fail_after=5), answer()))
        drive.come_back()
        outcomes.append(answer())

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(PATIENCE_S)
    assert not worker.is_alive(), "it hangs"
    expected, broken, without, again = outcomes
    assert expected[1] == "" and len(expected[0]) > 20
    assert re.fullmatch(LOST + ".*", broken[1]) and re.fullmatch(LOST + ".*", without[1])
    assert 5 <= len(broken[0]) < len(expected[0]) and broken[0] == expected[0][: len(broken[0])]
    assert without[0] == expected[0][: len(without[0])]
    assert again == expected
    engine.close()


def test_the_command_line_ends_with_one_line(drive: LoopDrive, demo_file: Path) -> None:
    path = drive.folder / demo_file.name
    budget = smallest_budget(path) + 500_000
    command = ("run", path, "-p", "What is an expert?", "--temperature", 0, "--ram-budget", budget)
    arguments = [sys.executable, "-m", "k2lite.cli.main", *map(str, command)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        drive.fail()
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert re.match("k2lite: " + LOST, told.splitlines()[-1]) and "Traceback" not in told
