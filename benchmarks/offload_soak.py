"""Answers, stops and new budgets, one after the other, for as long as is asked: nothing may leak, hang or go wrong.

    python -m benchmarks.offload_soak --minutes 30 [MODEL]

Without MODEL the built-in demo model. Every engine gets random budgets and cards; of its answers some are stopped after
a random while, and those that are not must be what the mapped model says. The process's memory is looked at when no
engine is loaded. A hang ends the run with the stacks of all threads. Time is counted only while the process runs: it
may be stopped (SIGSTOP) while something else is measured. The result is JSON; exit status 1 when something was wrong.
"""

import argparse
import faulthandler
import gc
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import psutil  # noqa: E402

from k2lite.demo.prepare import prepare_demo_model  # noqa: E402
from k2lite.engine import LocalEngine  # noqa: E402
from k2lite.engine_options import EngineOptions  # noqa: E402
from k2lite.events import Finished, Message, Request, Sampling  # noqa: E402
from quant.errors import RequestError  # noqa: E402

_HANG_S = 120
_TICK_S = 0.5
_BACKSTOP_S = 3600  # of the clock on the wall: when even the watching thread no longer runs
_ANSWERS_OF_AN_ENGINE = 8
_TOKENS = 48
_LEAK_BYTES = 64 << 20
_WORDS = ("expert", "card", "drive", "token", "layer", "router", "memory", "what", "where", "how", "many", "gate", "K2")


def main() -> int:
    options = _options()
    path = options.model or prepare_demo_model(report=lambda progress: None)
    rng = random.Random(options.seed)
    expected: dict[str, str] = {}
    counts = {"engines": 0, "answers": 0, "stopped": 0, "wrong": 0, "refused budgets": 0}
    memory: list[int] = []
    watch = RunningTime()
    while watch.running_s < 60 * options.minutes:
        watch.alive()
        _one_engine(path, rng, expected, counts)
        gc.collect()
        memory.append(psutil.Process().memory_info().rss)
    watch.end()
    settled = memory[len(memory) // 4 :]
    half = len(settled) // 2
    growth = _median(settled[half:]) - _median(settled[:half])
    tenth = max(1, len(memory) // 10)
    middle = len(memory) // 2
    parts = {
        "begin": memory[:tenth],
        "middle": memory[middle : middle + tenth],
        "end": memory[-tenth:],
    }
    result: dict[str, object] = {**counts, "minutes": options.minutes, "memory_growth_bytes": growth}
    result |= {f"memory_{part}_bytes": _median(values) for part, values in parts.items()}
    print(json.dumps(result))
    return int(counts["wrong"] > 0 or growth > _LEAK_BYTES)


class RunningTime:
    """Seconds in which this process was not stopped, counted by a thread that ends the process when it hangs."""

    def __init__(self) -> None:
        self.running_s = 0.0
        self._alive_at = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, name="soak-watch", daemon=True)
        self._thread.start()

    def alive(self) -> None:
        """Something has come to its end: no hang so far."""
        self._alive_at = self.running_s

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _count(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(_TICK_S):
            now = time.monotonic()
            self.running_s += min(now - before, 2 * _TICK_S)  # what is longer was no running
            before = now
            faulthandler.dump_traceback_later(_BACKSTOP_S, exit=True)
            if self.running_s - self._alive_at > _HANG_S:
                faulthandler.dump_traceback()
                os._exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="GGUF file")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _one_engine(path: Path, rng: random.Random, expected: dict[str, str], counts: dict[str, int]) -> None:
    size = path.stat().st_size
    budget = rng.choice([None, rng.randint(size // 8, 2 * size)])
    devices = rng.choice([None, f"virtual:{rng.randint(1, 3)}x{rng.randint(size // 16, size // 2)}"])
    engine = LocalEngine(path, EngineOptions(ram_budget_bytes=budget, devices=devices, context_tokens=1024))
    try:
        list(engine.load())
    except RequestError:  # too small, and said so
        counts["refused budgets"] += 1
        return
    counts["engines"] += 1
    for _ in range(_ANSWERS_OF_AN_ENGINE):
        _one_answer(path, engine, rng, expected, counts)
    engine.close()


def _one_answer(
    path: Path, engine: LocalEngine, rng: random.Random, expected: dict[str, str], counts: dict[str, int]
) -> None:
    question = " ".join(rng.choices(_WORDS, k=rng.randint(1, 3)))
    if question not in expected:
        expected[question] = _mapped_answer(path, question)
    stop = threading.Event()
    timer = threading.Timer(rng.uniform(0, 0.2), stop.set) if rng.random() < 0.4 else None
    if timer is not None:
        timer.start()
    text = _answer(engine, question, stop)
    if timer is not None:
        timer.cancel()
    counts["answers"] += 1
    counts["stopped"] += stop.is_set()
    right = expected[question].startswith(text) if stop.is_set() else expected[question] == text
    if not right:
        counts["wrong"] += 1
        print(f"{question!r}, stopped: {stop.is_set()}: {text!r} for {expected[question]!r}", file=sys.stderr)


def _mapped_answer(path: Path, question: str) -> str:
    engine = LocalEngine(path, EngineOptions(context_tokens=1024))
    list(engine.load())
    text = _answer(engine, question, threading.Event())
    engine.close()
    return text


def _answer(engine: LocalEngine, question: str, stop: threading.Event) -> str:
    # What is reused of the answer before changes where a prompt is cut, and with that the order of sums: two answers
    # are the same bit by bit only when both begin with nothing.
    assert engine._cache is not None
    engine._cache.reuse(())
    request = Request(messages=(Message("user", question),), sampling=Sampling(temperature=0), max_tokens=_TOKENS)
    *_, last = engine.generate(request, stop)
    assert isinstance(last, Finished)
    return last.text


def _median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    raise SystemExit(main())
