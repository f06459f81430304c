"""The measurement itself: sides are loaded, then measured in turn, round by round, each alone on the machine."""

import secrets
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psutil

from k2lite.bench.machine import machine_facts
from k2lite.bench.memory_limit import MemoryGroup, forget_cached, memory_group
from k2lite.bench.neighbour import busy_neighbour
from k2lite.bench.options import BenchOptions
from k2lite.bench.worker import Worker
from k2lite.engine_options import EngineOptions

Tell = Callable[[str], None]
Show = Callable[[str, int, int], None]

_SEEDS = 1 << 31
_REPACKED = 2.1  # times the file: mapped pages and a copy in llama.cpp's own order


@dataclass
class Measurements:
    """What was measured, in the order of the rounds. Keys of `values` are (side, what), units tokens/s or bytes/s."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    facts: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    decode_s: float = 0.0
    profile: dict[str, Any] | None = None
    memory_peak_bytes: int | None = None


def measure(options: BenchOptions, tell: Tell, show: Show) -> Measurements:
    """Do what `options` say. Raises K2Error. Every process that was started has ended when this returns or raises."""
    found = Measurements(machine=machine_facts())
    with ExitStack() as stack:
        group = None
        if options.memory_limit_bytes is not None:
            group = stack.enter_context(memory_group(options.memory_limit_bytes))
        with ExitStack() as processes:
            bench = _Bench(options, found, processes, group, tell, show)
            bench.load()
            for number in range(options.rounds):
                bench.round(number)
            bench.finish()
        if group is not None:
            found.memory_peak_bytes = group.peak_bytes()
        if options.profile:
            found.profile = _profile(options, found.facts["threads"], group, tell)
    return found


class _Bench:
    """The processes of one measurement."""

    def __init__(
        self,
        options: BenchOptions,
        found: Measurements,
        processes: ExitStack,
        group: MemoryGroup | None,
        tell: Tell,
        show: Show,
    ) -> None:
        self._options, self._found, self._group, self._tell, self._show = options, found, group, tell, show
        self._processes = processes
        self._sides: dict[str, Worker] = {}
        self._done = 0
        # Drawn anew for each run: prompts that were measured before may still lie in some cache.
        self._seed = secrets.randbelow(_SEEDS)

    def load(self) -> None:
        """Start and load all sides, one after the other."""
        available_bytes = psutil.virtual_memory().available
        self._roof = self._processes.enter_context(Worker("roof"))
        self._roof.ask("load")
        ours = self._sides["k2lite"] = _limited(self._processes, "k2lite", self._group)
        if self._group is not None:
            forget_cached([self._options.path])
        self._found.facts |= ours.ask("load", **_load_arguments(self._options))
        if self._options.against is not None:
            self._load_peer(self._options.against, available_bytes)

    def _load_peer(self, name: str, available_bytes: int) -> None:
        facts, options = self._found.facts, self._options
        roomy = self._group is None and available_bytes >= _REPACKED * facts["weight_bytes"]
        self._tell(f"loading {name}, with weights {'repacked' if roomy else 'as they lie in the file'}")
        peer = self._sides[name] = _limited(self._processes, name, self._group)
        loaded = peer.ask(
            "load", path=str(options.path), capacity=options.capacity, threads=facts["threads"], repack=roomy
        )
        facts["versions"] |= loaded["versions"]
        self._tell(f"looking for {name}'s best flags")
        flags = peer.ask("choose", prefill_tokens=list(options.prefill_tokens), depth=options.depth)
        facts["peer"] = {"name": name, "repacked": roomy, "flags": flags}

    def round(self, number: int) -> None:
        """Measure everything once. Sides take turns in going first."""
        names = list(self._sides) if number % 2 == 0 else list(self._sides)[::-1]
        roof = self._roof.ask("roof", threads=self._found.facts["cores"])
        self._store("ram", "roof", roof["bytes_per_s"])
        for name in names:
            self._decode(name, "decode")
        for tokens in self._options.prefill_tokens:
            for name in names:
                self._prefill(name, tokens)
        if self._options.busy_neighbour:
            with busy_neighbour() as core:
                self._found.facts["busy_core"] = core
                for name in names:
                    self._decode(name, "busy decode")
        self._tell(f"round {number + 1} of {self._options.rounds}: {self._latest()}")

    def finish(self) -> None:
        """Ask every side what it took."""
        for name, side in self._sides.items():
            self._found.facts[f"{name} peak_rss_bytes"] = side.ask("facts")["peak_rss_bytes"]

    def _decode(self, name: str, what: str) -> None:
        tokens = self._options.decode_tokens
        answer = self._sides[name].ask("decode", tokens=tokens, depth=self._options.depth, seed=self._next_seed())
        self._store(name, what, tokens / answer["seconds"])
        if what == "decode" and "counters" in answer:
            self._found.counters.update(answer["counters"])
            self._found.decode_s += answer["seconds"]

    def _prefill(self, name: str, tokens: int) -> None:
        answer = self._sides[name].ask("prefill", tokens=tokens, seed=self._next_seed())
        self._store(name, f"prefill {tokens}", tokens / answer["seconds"])

    def _next_seed(self) -> int:
        self._seed = (self._seed + 1) % _SEEDS
        return self._seed

    def _store(self, side: str, what: str, value: float) -> None:
        self._found.values[side, what].append(value)
        self._done += 1
        per_side = 1 + len(self._options.prefill_tokens) + self._options.busy_neighbour
        self._show("measuring", self._done, self._options.rounds * (1 + len(self._sides) * per_side))

    def _latest(self) -> str:
        values = self._found.values
        parts = [f"RAM {values['ram', 'roof'][-1] / 1e9:.1f} GB/s"]
        for (side, what), found in values.items():
            if what != "roof":
                parts.append(f"{side} {what} {found[-1]:.1f}")
        return ", ".join(parts)


def _profile(options: BenchOptions, threads: int, group: MemoryGroup | None, tell: Tell) -> dict[str, Any]:
    """Load once more, with clocks."""
    tell("looking where a token's time goes")
    with ExitStack() as processes:
        side = _limited(processes, "profile", group)
        side.ask("load", **_load_arguments(options) | {"threads": threads})
        tokens = options.decode_tokens * options.rounds
        needed = {"tokens": min(tokens, options.capacity - options.depth - 2), "depth": options.depth}
        return side.ask("profile", **needed, seed=secrets.randbelow(_SEEDS))


def _limited(processes: ExitStack, side: str, group: MemoryGroup | None) -> Worker:
    worker = processes.enter_context(Worker(side))
    if group is not None:
        group.add(worker.pid)
    return worker


def _load_arguments(options: BenchOptions) -> dict[str, Any]:
    return {
        "path": str(options.path),
        "capacity": options.capacity,
        "threads": options.threads,
        "pin": options.pin_threads,
        "kernels": options.kernels or EngineOptions.kernels,
    }
