"""Our encoders against ggml's: speed in the same run, one after the other in turn, and the errors that they leave.

    python -m benchmarks.encode [--json]

Speeds are of encoding rows that lie in memory, without reading and writing: median of the rounds, with the smallest
and largest. Errors are root mean squares, plain without importance and weighted by it otherwise, ours divided by
ggml's: below 1 is better. "ggml's weighting" is what its search minimises without importance, rms + |x|.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import k2lite.demo
from quant.checkpoint.checkpoint import Checkpoint
from quant.checkpoint.fp8 import decode_fp8_into, scale_shape
from quant.checkpoint.int4 import Int4Weights, decode_int4_into
from quant.encode.decode import dequantize
from quant.encode.encode import encode, encoder_identity
from quant.native_library import ISAS, load_native
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type

_TYPES = ("Q4_K", "Q5_K", "Q6_K")
_ENCODERS = ("native", "ggml")
_THEIRS = "ggml's weighting"
_COLS = 2048
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Speed:
    """Millions of weights per second: median, smallest and largest of the rounds."""

    median: float
    least: float
    most: float


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    if options.isa:
        load_native().use(options.isa)
    result = {
        "encoders": encoder_identity(),
        "isa": load_native().isa,
        "threads": options.threads,
        "speed": [
            _speed(block_type(name), weighted, threads, options)
            for name in _TYPES
            for weighted in (False, True)
            for threads in sorted({1, options.threads})
        ],
        "decoding": _decoding(options.rounds),
        "errors": [
            {"type": name, "weights": kind, **_errors(block_type(name), values)}
            for name in _TYPES
            for kind, values in _samples().items()
        ],
    }
    print(json.dumps(result) if options.json else _table(result))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="besides one (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=512, help=f"of {_COLS} weights, encoded in a round")
    parser.add_argument("--isa", choices=tuple(ISAS), help="instruction set of our encoders (default: the best)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _samples() -> dict[str, Tensor]:
    """128 Ki weights of each kind."""
    random, shape = np.random.default_rng(0), (64, _COLS)
    drawn = {
        "Gaussian": random.standard_normal(shape),
        "Laplace": random.laplace(size=shape),
        "heavy-tailed": random.standard_t(3, shape),
    }
    return {kind: torch.from_numpy(values.astype(np.float32)) for kind, values in drawn.items()} | {"demo": _demo()}


def _demo() -> Tensor:
    """Rows of the demo model's experts, two of each matrix."""
    with Checkpoint.open(Path(k2lite.demo.__file__).parent / "model") as checkpoint:
        names = [name for name in checkpoint.names if "experts" in name and checkpoint.shape(name)[-1] % 256 == 0]
        return torch.cat([checkpoint.read(name).view(-1, 256)[:2] for name in names])


def _importance(cols: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(0.1, 2, cols).astype(np.float32))


def _speed(block: BlockType, weighted: bool, threads: int, options: argparse.Namespace) -> dict[str, object]:
    values = torch.randn(options.rows, _COLS, generator=torch.Generator().manual_seed(0))
    importance = _importance(_COLS) if weighted else None
    chunks = values.split(_ROWS_AT_ONCE)
    rates: dict[str, list[float]] = {name: [] for name in _ENCODERS}
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(options.rounds + 1):
            for name in _ENCODERS:
                start = time.perf_counter()
                list(pool.map(lambda chunk, name=name: encode(chunk, block, importance, name), chunks))
                rates[name].append(values.numel() / (time.perf_counter() - start) / 1e6)
    speeds = {name: _spread(rate[1:]) for name, rate in rates.items()}  # the first round warms up
    return {
        "type": block.name,
        "importance": weighted,
        "threads": threads,
        **{name: vars(speed) for name, speed in speeds.items()},
        "ratio": speeds["native"].median / speeds["ggml"].median,
    }


def _decoding(rounds: int) -> dict[str, object]:
    """Decoding in one thread, from and to memory that the caches hold."""
    rows, cols = 256, _COLS
    values, random = torch.empty(rows, cols), torch.Generator().manual_seed(0)
    codes = torch.randint(0, 127, (rows, cols), generator=random, dtype=torch.uint8)
    words = torch.randint(-(2**31), 2**31, (rows, cols // 8), generator=random).to(torch.int32)
    factors, scales = torch.ones(scale_shape(rows, cols)), torch.ones(rows, cols // 32)
    return {
        "FP8": vars(_rate(lambda: decode_fp8_into(codes, factors, values), values.numel(), rounds)),
        "INT4": vars(_rate(lambda: decode_int4_into(Int4Weights(words, scales), values), values.numel(), rounds)),
    }


def _rate(work: Callable[[], object], weights: int, rounds: int) -> Speed:
    rates = []
    for _ in range(10 * rounds):
        start = time.perf_counter()
        work()
        rates.append(weights / (time.perf_counter() - start) / 1e6)
    return _spread(rates[rounds:])


def _spread(rates: list[float]) -> Speed:
    return Speed(statistics.median(rates), min(rates), max(rates))


def _errors(block: BlockType, values: Tensor) -> dict[str, float]:
    importance = _importance(values.shape[-1])
    by_sub_block = values.view(-1, 32)
    theirs = (by_sub_block.square().mean(-1, keepdim=True).sqrt() + by_sub_block.abs()).view(values.shape)
    found = {}
    for name in _ENCODERS:
        plain, weighted = (_off(values, block, columns, name) for columns in (None, importance))
        found[name] = (_rms(plain), _rms(plain, theirs), _rms(weighted, importance))
    ours, ggml = found["native"], found["ggml"]
    names = ("plain", _THEIRS, "with importance")
    ratios = {name: mine / other for name, mine, other in zip(names, ours, ggml, strict=True)}
    return {"rmse": ours[0], "ggml_rmse": ggml[0], "importance_rmse": ours[2], "ggml_importance_rmse": ggml[2]} | ratios


def _off(values: Tensor, block: BlockType, importance: Tensor | None, encoders: str) -> Tensor:
    encoded = QuantizedTensor(block, tuple(values.shape), encode(values, block, importance, encoders))
    return dequantize(encoded).double() - values.double()


def _rms(off: Tensor, weights: Tensor | None = None) -> float:
    square = off**2 if weights is None else off**2 * weights / weights.double().mean()
    return float(square.mean().sqrt())


def _table(result: dict) -> str:
    lines = [f"{result['encoders']}, instruction set {result['isa']}", "", "M weights/s (least to most)"]
    for row in result["speed"]:
        ours, theirs = (
            f"{row[name]['median']:7.1f} ({row[name]['least']:.1f} to {row[name]['most']:.1f})" for name in _ENCODERS
        )
        what = f"{row['type']} {'importance' if row['importance'] else 'plain':10} {row['threads']:2} threads"
        lines.append(f"  {what}  ours {ours:28} ggml {theirs:26} {row['ratio']:5.1f} times")
    for name, speed in result["decoding"].items():
        spread = f"({speed['least']:.0f} to {speed['most']:.0f})"
        lines.append(f"  {name} to float, 1 thread, in the cache  {speed['median']:.0f} {spread}")
    lines += ["", "Error                 ours      ggml     ratio   with importance   in ggml's weighting"]
    for row in result["errors"]:
        what = f"  {row['type']} {row['weights']:12}"
        ratios = f"{row['plain']:.4f}  {row['with importance']:8.4f}         {row[_THEIRS]:8.4f}"
        lines.append(f"{what} {row['rmse']:9.6f} {row['ggml_rmse']:9.6f}  {ratios}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
