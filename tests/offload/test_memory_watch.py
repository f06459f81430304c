"""Memory that gets less while a model runs: slots are given up, and an answer ends before the system ends it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k2lite.bench.memory_limit import MemoryGroup, MemoryLimitError, memory_group
from k2lite.cli.main import main
from k2lite.environment import child_environment
from offload.free_memory import FreeMemory, memory_left
from offload.memory_watch import MemoryWatch
from offload.tiered import TieredExperts
from quant.errors import StoreError
from tests.offload.test_free_memory import group
from tests.offload.tiny_models import Setting, TinyModel

MIB = 1 << 20
TOKENS = 16


class Seconds:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def watch_of(free: Callable[[], int], least: int = 100 * MIB) -> tuple[MemoryWatch, Seconds]:
    clock = Seconds()
    return MemoryWatch(lambda: FreeMemory(free(), least), clock), clock


def test_what_is_short_is_given_up_and_taken_again_when_there_is_plenty() -> None:
    free = 1000 * MIB
    watch, clock = watch_of(lambda: free)
    assert not watch.is_due
    clock.now = 1.0
    assert watch.is_due and watch.bytes_to_give_up(0, 800 * MIB) == 0
    assert not watch.is_due
    free = 300 * MIB
    assert watch.bytes_to_give_up(0, 800 * MIB) == 600 * MIB, "also what slots have not taken yet"
    assert watch.bytes_to_give_up(600 * MIB, 200 * MIB) == 600 * MIB
    free = 350 * MIB
    assert watch.bytes_to_give_up(600 * MIB, 200 * MIB) == 600 * MIB, "a little more is no reason"
    free = 500 * MIB
    assert watch.bytes_to_give_up(600 * MIB, 200 * MIB) == (600 - 200 + 64) * MIB
    free = 2000 * MIB
    assert watch.bytes_to_give_up(600 * MIB, 200 * MIB) == 0


def test_it_is_an_error_only_when_nothing_more_can_be_given_up() -> None:
    free = 40 * MIB
    watch, _ = watch_of(lambda: free)
    assert watch.bytes_to_give_up(0, 0) == 60 * MIB
    assert watch.bytes_to_give_up(30 * MIB, 0) == 90 * MIB, "some was given up: perhaps that is enough"
    with pytest.raises(StoreError, match=r"memory runs out: 40 MB are free.*smaller --ram-budget"):
        watch.bytes_to_give_up(30 * MIB, 0)
    free = 70 * MIB
    assert watch.bytes_to_give_up(30 * MIB, 0) == 60 * MIB
    assert watch.bytes_to_give_up(30 * MIB, 0) == 60 * MIB, "short, but not in danger"


def test_the_tightest_place_says_what_is_left(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("9:memory:/outer/inner\n")
    group(tmp_path, "outer/inner", 6400 * MIB, 6000 * MIB, 100 * MIB)
    group(tmp_path, "outer", 1 << 45, 0, 0)
    assert memory_left(own, tmp_path) == FreeMemory(500 * MIB, 100 * MIB)


@contextmanager
def watched(model: TinyModel, watch: MemoryWatch) -> Iterator[TieredExperts]:
    with model.placed(Setting(model.layout.total_bytes // 2)) as experts:
        experts._watch = watch
        yield experts


def test_answers_stay_right_while_slots_come_and_go(k2: TinyModel) -> None:
    prompt = k2.prompt(20)
    expected, _ = k2.greedy(prompt, TOKENS)
    free = [0]
    clock = Seconds()
    watch = MemoryWatch(lambda: FreeMemory(free[0], 1), clock)
    with watched(k2, watch) as experts:
        assert k2.greedy(prompt, TOKENS)[0] == expected
        capacity = experts._tiers.residency.ram.capacity_bytes
        for free[0], least_lent in ((-capacity // 4, capacity // 4), (-capacity // 4, capacity // 2), (1 << 40, 0)):
            clock.now += 2
            assert k2.greedy(prompt, TOKENS)[0] == expected
            lent = experts._tiers.ram.lent_bytes
            assert lent >= least_lent and (lent == 0) == (least_lent == 0)
            resident = experts._tiers.ram.promised_bytes + lent
            assert resident <= capacity


def test_an_answer_ends_with_an_error_before_memory_does_and_the_next_one_can_begin(k2: TinyModel) -> None:
    prompt = k2.prompt(20)
    expected, _ = k2.greedy(prompt, TOKENS)
    free = 0
    clock = Seconds()
    with watched(k2, MemoryWatch(lambda: FreeMemory(free, 1 << 30), clock)) as experts:
        for clock.now in (2.0, 4.0):
            assert k2.greedy(prompt, TOKENS)[0] == expected, "all slots but the last of each size are gone"
        clock.now = 6.0
        with pytest.raises(StoreError, match="memory runs out"):
            k2.greedy(prompt, TOKENS)
        free, clock.now = 1 << 40, 8.0
        assert k2.greedy(prompt, TOKENS)[0] == expected
        assert experts._tiers.ram.lent_bytes == 0


# Loads a model, answers two tokens, says so and waits for a line, then goes on. Its tokens and slots are JSON.
ANSWERING = """
import json, sys, threading, time
from pathlib import Path
from k2lite.engine import LocalEngine
from k2lite.engine_options import EngineOptions
from k2lite.events import Request, Sampling, Token

path, budget = sys.argv[1:]
sys.stdin.readline()
engine = LocalEngine(Path(path), EngineOptions(ram_budget_bytes=int(budget), context_tokens=512))
list(engine.load())
request = Request(raw_prompt="a", sampling=Sampling(temperature=0), max_tokens=60)
ids = []
for event in engine.generate(request, threading.Event()):
    if isinstance(event, Token):
        ids.append(event.id)
        if len(ids) == 2:
            print("two", flush=True)
            sys.stdin.readline()
            time.sleep(1.2)  # until the next look is due
ram = engine._loaded.model._experts._tiers.ram
print(json.dumps({"ids": ids, "lent": ram.lent_bytes}), flush=True)
"""


@pytest.fixture(scope="module")
def half_gigabyte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "model.gguf"
    size = ("--hidden", 1024, "--expert-width", 512, "--dense-width", 1024, "--vocab", 2048)
    arguments = ("synth", path, "--shape", "k2", "--layers", 5, "--experts", 64, *size, "--type", "Q8_0")
    assert main([str(argument) for argument in arguments]) == 0
    return path


@pytest.mark.slow
def test_a_limit_that_is_lowered_while_an_answer_runs_kills_nobody(half_gigabyte: Path) -> None:
    def answer(limits: MemoryGroup | None) -> dict[str, object]:
        command = [sys.executable, "-c", ANSWERING, str(half_gigabyte), str(half_gigabyte.stat().st_size - (64 << 20))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, env=child_environment(), **pipes) as process:  # type: ignore[call-overload]
            if limits is not None:
                limits.add(process.pid)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "two\n", process.stderr.read()
            if limits is not None:
                limits.set_limit(limits.used_bytes() + 120 * MIB)  # half of the slots have still to be filled
            out, err = process.communicate("\n", timeout=300)
        assert process.returncode == 0, (process.returncode, err)
        return dict(json.loads(out))

    try:
        with memory_group(4 << 30) as limits:
            shrunk = answer(limits)
    except MemoryLimitError as error:
        pytest.skip(str(error))
    plain = answer(None)
    assert plain["lent"] == 0 and isinstance(shrunk["lent"], int) and shrunk["lent"] > 50 * MIB
    assert shrunk["ids"] == plain["ids"]
