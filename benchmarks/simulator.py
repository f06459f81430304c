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
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.simulator_settings import SETTINGS, Setting, ThrottledDrive, budgets  # noqa: E402
from benchmarks.watched_run import WatchedRun  # noqa: E402
from k2lite.load import LoadedModel, load_model  # noqa: E402
from k2lite.model_bytes import model_bytes_of_file  # noqa: E402
from k2lite.synth.families import shape_named  # noqa: E402
from k2lite.synth.shapes import Changes  # noqa: E402
from k2lite.synth.synth import SynthRequest, plan_synthetic, write_synthetic  # noqa: E402
from offload import build  # noqa: E402
from offload.dispatch import CardSpeeds, MachineSpeeds  # noqa: E402
from offload.memory_options import MemoryOptions  # noqa: E402
from offload.probe_drive import probe_drive  # noqa: E402
from offload.simulate import Workplace, simulate  # noqa: E402
from offload.trace import RoutingTrace, read_trace  # noqa: E402

TOLERANCE = 0.15
_CHANGES = Changes(layers=4, experts=48, vocab=8192)
_RECIPE = "K2_4"  # every expert of one size
_PROBE_S = 1.0


def main() -> int:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="k2lite-simulator-", dir=options.folder)))
        file = options.file or make_slice(folder)
        ids = torch.randint(1000, (options.tokens,), generator=torch.Generator().manual_seed(1))
        rows = []
        for number in options.settings:
            rows.append(compared(SETTINGS[number], file, folder, ids))
            print(*_lines(rows[-1:]), sep="\n", file=sys.stderr)
    print(json.dumps(rows) if options.json else "\n".join(_lines(rows)))
    return int(any(abs(row["error"]) > TOLERANCE for row in rows))


def make_slice(folder: Path, changes: Changes = _CHANGES) -> Path:
    """A file of Kimi K2's architecture, random, every expert of one size."""
    path = folder / "slice.gguf"
    write_synthetic(plan_synthetic(SynthRequest(path, shape_named("k2"), "k2", changes, recipe=_RECIPE)))
    return path


def compared(setting: Setting, file: Path, folder: Path, ids: torch.Tensor) -> dict[str, Any]:
    """One setting, measured and simulated."""
    throttled = setting.drive_share < 1
    slow = setting.drive_share * probe_drive(file, _PROBE_S).bytes_per_s
    ThrottledDrive.bytes_per_s = slow if throttled else float("inf")
    trace_path = folder / f"{SETTINGS.index(setting)}.jsonl"
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(build, "Drive", ThrottledDrive))
        loaded = stack.enter_context(_opened(file, budgets(setting, file), trace_path))
        loaded.model.settle()
        _decode(loaded, ids)  # into memory that nobody has used before: slower, and once only
        drives = [probe_drive(file, _PROBE_S).bytes_per_s]
        run = WatchedRun(loaded)
        with run.watching():
            seconds = _decode(loaded, ids)
        drives.append(probe_drive(file, _PROBE_S).bytes_per_s)
    drive = slow if throttled else statistics.mean(drives)
    trace = read_trace(trace_path, loaded.model.config.n_experts)
    return _row(setting, drive, seconds / len(ids), run, trace, _workplace(setting, file, drive, run))


def _workplace(setting: Setting, file: Path, drive: float, run: WatchedRun) -> Workplace:
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
    setting: Setting, drive: float, token_s: float, run: WatchedRun, trace: RoutingTrace, place: Workplace
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
