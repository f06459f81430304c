"""How fast `k2lite synth` writes, beside what the drive takes: a K2-width slice and plain direct writes, in turn.

    python -m benchmarks.synth --work FOLDER
"""

import argparse
import json
import mmap
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measured_process import folder_bytes, measure

_BLOCK_BYTES = 16 * 1024 * 1024


def main() -> int:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    sizes = ("--layers", options.layers, "--experts", options.experts, "--vocab", options.vocab)
    forms = {"fp8": ("--form", "fp8"), "Q4_K_M": ("--type", "Q4_K_M")}
    rates: dict[str, list[float]] = {"drive": [], **{name: [] for name in forms}}
    for _ in range(options.rounds):
        rates["drive"].append(_direct_write(options.work / "roof", options.roof_bytes))
        for name, form in forms.items():
            rates[name].append(_synth(options.work, ("--shape", "k2", *form, *sizes)))
        print({name: round(values[-1] / 1e9, 2) for name, values in rates.items()}, file=sys.stderr, flush=True)
    result = {f"{name}_bytes_per_s": _spread(values) for name, values in rates.items()}
    for name in forms:
        shares = [rate / roof for rate, roof in zip(rates[name], rates["drive"], strict=True)]
        result[f"{name}_roof_share"] = _spread(shares)
    print(json.dumps(result, indent=2))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/benchmark"), help="folder for what is written (7 GB)")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--roof-bytes", type=int, default=4 * 1024**3)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _synth(work: Path, arguments: Sequence[object]) -> float:
    """Bytes a second of a whole run, the start of Python included; without its check, which writes nothing."""
    output = work / "synthetic"
    command = [sys.executable, "-m", "k2lite.cli.main", "synth", str(output), "--no-check", *map(str, arguments)]
    seconds = measure(command, work).seconds
    written = folder_bytes(work)
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink()
    return written / seconds


def _direct_write(path: Path, nbytes: int) -> float:
    """Bytes a second that the drive takes past the page cache."""
    with mmap.mmap(-1, _BLOCK_BYTES) as block:  # a page boundary, as direct writes need
        block.write(os.urandom(_BLOCK_BYTES))
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o666)
        try:
            started = time.monotonic()
            for _ in range(nbytes // _BLOCK_BYTES):
                os.write(file, block)
            os.fdatasync(file)
            seconds = time.monotonic() - started
        finally:
            os.close(file)
            path.unlink()
    return nbytes / seconds


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    sys.exit(main())
