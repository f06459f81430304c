"""The simulator against reality: predicted and measured tokens per second of one file on this machine.

    python -m benchmarks.simulator [--file FILE | --folder FOLDER] [--tokens N] [--settings N ...] [--json]

Without --file a K2-width slice with random weights is made in FOLDER and removed again: one dense layer and three of 48
experts, 8 used, everything an expert has of one type. The same tokens are decoded twice under every setting, the second
time measured, and the routing that is recorded is replayed by the simulator. It is told how fast the processor was in
the same run (an expert, what passes between two layers' experts and between two tokens), how fast the drive is (read
directly just before and after), and how often the look-ahead guessed right. What waits for what, who is where, and so
the tokens per second, it finds itself. Exit status 1 when a setting is off by more than 15 %.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import numpy as np  # noqa: E402
import torch  # noqa: E402

from k2lite.card_placement import place_on_cards  # noqa: E402
from k2lite.config_gguf import config_from_gguf  # noqa: E402
from k2lite.load import LoadedModel, load_model  # noqa: E402
from k2lite.model_bytes import model_bytes_of_file  # noqa: E402
from k2lite.own_memory import PromptMemory, budget_for, own_bytes, resident_bytes  # noqa: E402
from k2lite.synth.families import shape_named  # noqa: E402
from k2lite.synth.shapes import Changes  # noqa: E402
from k2lite.synth.synth import SynthRequest, plan_synthetic, write_synthetic  # noqa: E402
from offload import build  # noqa: E402
from offload.dispatch import CardSpeeds, MachineSpeeds  # noqa: E402
from offload.drive import Drive  # noqa: E402
from offload.memory_options import CardSpec, MemoryOptions  # noqa: E402
from offload.probe_drive import probe_drive  # noqa: E402
from offload.probe_host import usable_cores  # noqa: E402
from offload.simulate import Workplace, simulate  # noqa: E402
from offload.trace import RoutingTrace, read_trace  # noqa: E402
from quant.gguf.gguf_file import GgufFile  # noqa: E402
from quant.kernels import ExpertCall  # noqa: E402

TOLERANCE = 0.15
_CHANGES = Changes(layers=4, experts=48, vocab=8192)
_RECIPE = "K2_4"  # every expert of one size
_EVERYTHING = 1 << 50
_CONTEXT_TOKENS = 512
_ENOUGH_PRODUCTS = 50
_PROBE_S = 1.0


@dataclass(frozen=True)
class Setting:
    """`ram` is about the share of the experts' bytes that RAM may hold, `cards` that of each card beside an equal share
    of all layers; `drive_share` slows the drive down to a part of its speed."""

    name: str
    ram: float
    cards: tuple[float, ...] = ()
    drive_share: float = 1.0


SETTINGS = (
    Setting("75 % in RAM", 0.75),
    Setting("50 % in RAM", 0.50),
    Setting("25 % in RAM", 0.25),
    Setting("50 %, drive at half speed", 0.50, drive_share=0.5),
    Setting("75 %, drive at a quarter", 0.75, drive_share=0.25),
    Setting("40 % and a card of 20 %", 0.40, (0.20,)),
    Setting("25 % and two cards of 15 %", 0.25, (0.15, 0.15)),
    Setting("all mapped, a card of 25 %", 2.0, (0.25,)),
)


class ThrottledDrive(Drive):
    """Reads that take at least as long as a slower drive would take for all of them together."""

    bytes_per_s = float("inf")

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths)
        self._turn, self._free_at = threading.Lock(), 0.0

    def read(self, file: int, offset: int, target: memoryview, needed: int) -> None:
        """See Drive.read."""
        with self._turn:
            self._free_at = max(self._free_at, time.perf_counter()) + needed / self.bytes_per_s
            end = self._free_at
        super().read(file, offset, target, needed)
        time.sleep(max(0.0, end - time.perf_counter()))


def main() -> int:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="k2lite-simulator-", dir=options.folder)))
        file = options.file or _slice(folder)
        ids = torch.randint(1000, (options.tokens,), generator=torch.Generator().manual_seed(1))
        rows = []
        for number in options.settings:
            rows.append(_compared(SETTINGS[number], file, folder, ids))
            print(*_lines(rows[-1:]), sep="\n", file=sys.stderr)
    print(json.dumps(rows) if options.json else "\n".join(_lines(rows)))
    return int(any(abs(row["error"]) > TOLERANCE for row in rows))


def _slice(folder: Path) -> Path:
    path = folder / "slice.gguf"
    write_synthetic(plan_synthetic(SynthRequest(path, shape_named("k2"), "k2", _CHANGES, recipe=_RECIPE)))
    return path


def _compared(setting: Setting, file: Path, folder: Path, ids: torch.Tensor) -> dict[str, Any]:
    """One setting, measured and simulated."""
    throttled = setting.drive_share < 1
    slow = setting.drive_share * probe_drive(file, _PROBE_S).bytes_per_s
    ThrottledDrive.bytes_per_s = slow if throttled else float("inf")
    trace_path = folder / f"{SETTINGS.index(setting)}.jsonl"
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(build, "Drive", ThrottledDrive))
        loaded = stack.enter_context(_opened(file, _budgets(setting, file), trace_path))
        loaded.model.settle()
        _decode(loaded, ids)  # into memory that nobody has used before: slower, and once only
        drives = [probe_drive(file, _PROBE_S).bytes_per_s]
        run = _Run(loaded)
        with run.watching():
            seconds = _decode(loaded, ids)
        drives.append(probe_drive(file, _PROBE_S).bytes_per_s)
    drive = slow if throttled else statistics.mean(drives)
    trace = read_trace(trace_path, loaded.model.config.n_experts)
    return _row(setting, drive, seconds / len(ids), run, trace, _workplace(setting, file, drive, run))


@dataclass(frozen=True)
class _Product:
    """A call of the kernels: how many experts it was for, and whether something was being copied when it began."""

    experts: int
    seconds: float
    disturbed: bool


class _Run:
    """A run under way, and what it tells about the processor."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self._forward = loaded, loaded.model._experts.forward
        self._announce, self._leads, self._announced = loaded.model._experts.announce, list[float](), 0.0
        self._tiers = loaded.model._experts._inner._tiers
        self._add, self._products = self._tiers.multiplier.add, list[_Product]()
        self._times: list[tuple[int, float, float]] = []
        self.state = loaded.model.experts_state()
        self._counters_before, self._stall_before_s = loaded.model.counters(), self._tiers.tally.stall_s

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at everything that is done in this block."""
        experts, multiplier = self._loaded.model._experts, self._tiers.multiplier
        with (
            mock.patch.multiple(experts, forward=self.forward, announce=self.announce),
            mock.patch.object(multiplier, "add", self.add),
        ):
            yield
        self._loaded.model.settle()
        self.state, counters = self._loaded.model.experts_state(), self._loaded.model.counters()
        self.uses = {name: count - self._counters_before[name] for name, count in counters.items()}
        self._stall_s = self._tiers.tally.stall_s - self._stall_before_s

    def forward(self, layer: int, *arguments: Any) -> Any:
        """See Experts.forward."""
        started = time.perf_counter()
        if self._announced:
            self._leads.append(started - self._announced)
            self._announced = 0.0
        y = self._forward(layer, *arguments)
        self._times.append((layer, started, time.perf_counter()))
        return y

    def announce(self, layer: int, stream: torch.Tensor) -> None:
        """See Experts.announce."""
        if layer == self._loaded.model.config.n_dense_layers - 1:
            self._announced = time.perf_counter()
        self._announce(layer, stream)

    def add(self, x: torch.Tensor, calls: Sequence[ExpertCall], y: torch.Tensor) -> None:
        """See Multiplier.add."""
        disturbed = bool(self._tiers.pool._under_way)
        started = time.perf_counter()
        self._add(x, calls, y)
        self._products.append(_Product(len(calls), time.perf_counter() - started, disturbed))

    @property
    def expert_s(self) -> float:
        """Of the processor, for one expert, by products during which nothing was copied, where there are enough."""
        alone = [product for product in self._products if not product.disturbed]
        chosen = alone if len(alone) >= _ENOUGH_PRODUCTS else self._products
        return sum(product.seconds for product in chosen) / sum(product.experts for product in chosen)

    @property
    def layer_s(self) -> float:
        """Beside a layer's routed experts and waiting for them."""
        gaps = [later[1] - sooner[2] for sooner, later in pairwise(self._times) if later[0] > sooner[0]]
        inside = sum(ended - started for _, started, ended in self._times)
        inside -= self._stall_s + sum(product.seconds for product in self._products)
        return statistics.mean(gaps) + inside / len(self._times) + self._shared_s

    @property
    def token_s(self) -> float:
        """What passes between two tokens, in addition to what a layer takes."""
        gaps = [later[1] - sooner[2] for sooner, later in pairwise(self._times) if later[0] < sooner[0]]
        between = [later[1] - sooner[2] for sooner, later in pairwise(self._times) if later[0] > sooner[0]]
        return statistics.mean(gaps) - statistics.mean(between)

    @property
    def lead_s(self) -> float:
        """Of that, what passes behind the guess of the first layer's experts."""
        return max(0.0, statistics.mean(self._leads) + self._shared_s - self.layer_s)

    @property
    def _shared_s(self) -> float:
        return self._loaded.model.config.n_shared_experts * self.expert_s

    def slots(self, tier: str, slot_bytes: int) -> int:
        """Experts of about so many bytes that a tier has room for."""
        capacity = next(found.capacity_bytes for found in self.state.tiers if found.name == tier)
        return round(capacity / slot_bytes)

    @property
    def homes(self) -> dict[int, int]:
        """The card of each layer with experts, counted from 0, as far as cards hold layers."""
        layers = [layer for layer in self._loaded.model._layers if layer.router is not None]
        names = [layer.home.name for layer in layers]
        return {index: int(name.split(":")[1]) for index, name in enumerate(names) if ":" in name}

    @property
    def guessed_right(self) -> float | None:
        """The share of the look-ahead's reads that were used."""
        reads, used = self.state.lookahead_reads, self.state.lookahead_used
        return used / reads if reads else None


def _workplace(setting: Setting, file: Path, drive: float, run: _Run) -> Workplace:
    """The same for the simulator."""
    model, mapped = model_bytes_of_file(file), setting.ram > 1
    size = model.largest_expert_bytes
    # Of a mapped file, what goes to a card is first gathered.
    link = _copy_bytes_per_s() / (2 if mapped else 1)
    return Workplace(
        speeds=MachineSpeeds(
            cpu_bytes_per_s=size / run.expert_s,
            drive_bytes_per_s=drive,
            cpu_flops=1e12,
            cards=(CardSpeeds(size / run.expert_s, link, 1e12),) * len(setting.cards),
        ),
        ram_bytes=None if mapped else run.slots("RAM", size) * size,
        card_bytes=tuple(run.slots(f"card {number}", size) * size for number in range(len(setting.cards))),
        slot_bytes=size,
        work_bytes=size,
        layer_s=run.layer_s,
        token_s=run.token_s,
        lead_s=run.lead_s,
        homes=run.homes,
        cards_are_virtual=True,
        guessed_right=None if mapped else run.guessed_right,
    )


def _copy_bytes_per_s() -> float:
    """One thread, as copies to virtual cards are made."""
    copied = np.ones(64 << 20, np.uint8)
    target = copied.copy()
    started = time.perf_counter()
    np.copyto(target, copied)
    return copied.size / (time.perf_counter() - started)


def _row(
    setting: Setting, drive: float, token_s: float, run: _Run, trace: RoutingTrace, place: Workplace
) -> dict[str, Any]:
    """Of both, what counts is the second time that the tokens are decoded."""
    found, half = simulate(trace, place), len(trace.tokens) // 2
    first = simulate(replace(trace, tokens=trace.tokens[:half]), place)
    predicted_s = statistics.mean(found.token_seconds[half:])
    hits = {tier: count - first.hits[tier] for tier, count in found.hits.items()}
    uses = sum(count for name, count in run.uses.items() if name.endswith("_experts"))
    return {
        "setting": setting.name,
        "drive_bytes_per_s": drive,
        "expert_ms": 1000 * run.expert_s,
        "measured_tokens_per_s": 1 / token_s,
        "predicted_tokens_per_s": 1 / predicted_s,
        "error": token_s / predicted_s - 1,
        "measured_drive_share": run.uses.get("drive_experts", 0) / uses,
        "predicted_drive_share": hits["drive"] / sum(hits.values()),
        "guessed_right": run.guessed_right,
    }


def _budgets(setting: Setting, file: Path) -> MemoryOptions:
    """Bytes for the shares of a setting. Cards hold layers first, so they get room for those too."""
    model = model_bytes_of_file(file)
    of_layers = model.resident_bytes + _CONTEXT_TOKENS * model.cache_bytes
    sizes = [int(share * model.experts_bytes + of_layers / len(setting.cards)) for share in setting.cards]
    cards = tuple(CardSpec("virtual", size, number) for number, size in enumerate(sizes))
    if setting.ram > 1:
        return MemoryOptions(ram_budget_bytes=_EVERYTHING, context_tokens=_CONTEXT_TOKENS, cards=cards)
    with GgufFile.open(file) as opened:
        config = config_from_gguf(opened.metadata)
        on_cards = place_on_cards(opened, config, cards, _CONTEXT_TOKENS).resident_bytes
    buffers = PromptMemory(config, usable_cores()).bytes_of(1, longest=1024)
    needed = int(setting.ram * model.experts_bytes) + model.resident_bytes + model.embedding_bytes - on_cards + buffers
    budget = budget_for(needed, own_bytes(config, resident_bytes()))
    return MemoryOptions(ram_budget_bytes=budget, context_tokens=_CONTEXT_TOKENS, cards=cards)


@contextmanager
def _opened(file: Path, memory: MemoryOptions, record: Path | None = None) -> Iterator[LoadedModel]:
    loaded = load_model(file, memory=memory, record_routing=record)
    try:
        yield loaded
    finally:
        loaded.close()


def _decode(loaded: LoadedModel, ids: torch.Tensor) -> float:
    """Seconds for all tokens, one at a time."""
    cache = loaded.model.new_cache(len(ids))
    started = time.perf_counter()
    for position in range(len(ids)):
        loaded.model.forward(ids[position : position + 1], cache)
    return time.perf_counter() - started


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = ("drive GB/s", "ms an expert", "measured tokens/s", "predicted", "off by", "read, measured", "predicted")
    yield f"| setting | {' | '.join(names)} | guessed |"
    yield "| --- " * (len(names) + 2) + "|"
    for row in rows:
        right = "-" if row["guessed_right"] is None else f"{100 * row['guessed_right']:.0f} %"
        yield (
            f"| {row['setting']} | {row['drive_bytes_per_s'] / 1e9:.2f} | {row['expert_ms']:.2f} "
            f"| {row['measured_tokens_per_s']:.2f} "
            f"| {row['predicted_tokens_per_s']:.2f} | {100 * row['error']:+.1f} % "
            f"| {100 * row['measured_drive_share']:.1f} % | {100 * row['predicted_drive_share']:.1f} % | {right} |"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a GGUF file of the recipe K2_4")
    parser.add_argument("--folder", type=Path, help="where the slice is made (default: the folder for temporary files)")
    parser.add_argument("--tokens", type=int, default=60, help="decoded under each setting")
    every = range(len(SETTINGS))
    parser.add_argument("--settings", type=int, nargs="+", choices=every, default=every, metavar="N", help="from 0 on")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
