"""Answers, stops and new budgets, one after the other, for as long as is asked: nothing may leak, hang or go wrong.

    python -m benchmarks.offload_soak --minutes 30 [MODEL]

Without MODEL the built-in demo model. Every engine gets random budgets and cards; of its answers some are stopped after
a random while, and those that are not must be what the mapped model says. The process's memory is looked at when no
engine is loaded. A hang ends the run with the stacks of all threads. The result is JSON; exit status 1 when something
was wrong.
"""

import argparse
import faulthandler
import gc
import json
import random
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
    until = time.monotonic() + 60 * options.minutes
    while time.monotonic() < until:
        faulthandler.dump_traceback_later(_HANG_S, exit=True)
        _one_engine(path, rng, expected, counts)
        gc.collect()
        memory.append(psutil.Process().memory_info().rss)
    faulthandler.cancel_dump_traceback_later()
    settled = memory[len(memory) // 4 :]
    half = len(settled) // 2
    growth = _median(settled[half:]) - _median(settled[:half])
    print(
        json.dumps({**counts, "memory_growth_bytes": growth, "memory_bytes": settled[-1], "minutes": options.minutes})
    )
    return int(counts["wrong"] > 0 or growth > _LEAK_BYTES)


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
    counts["wrong"] += not right


def _mapped_answer(path: Path, question: str) -> str:
    engine = LocalEngine(path, EngineOptions(context_tokens=1024))
    list(engine.load())
    text = _answer(engine, question, threading.Event())
    engine.close()
    return text


def _answer(engine: LocalEngine, question: str, stop: threading.Event) -> str:
    request = Request(messages=(Message("user", question),), sampling=Sampling(temperature=0), max_tokens=_TOKENS)
    *_, last = engine.generate(request, stop)
    assert isinstance(last, Finished)
    return last.text


def _median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    raise SystemExit(main())
