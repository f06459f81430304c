"""Single products on quantized bytes: our kernels and ggml's, in turn in one run, beside the memory's read bandwidth.

    python -m benchmarks.kernels [--types Q4_K,Q6_K] [--threads N] [--kernels native,ggml] [--json]

Matrix-vector: one matrix of half a gigabyte (K2's head is larger), so that no cache holds what comes next and the call
itself costs nothing. GB/s count the bytes of the weights once, however many tokens are multiplied. A round's figure is
the fastest of three products, its roof the fastest of three reads of 1 GiB in front of them and three behind: a
machine's memory can change its speed in between.
Matrix-matrix: GFLOP/s (two per weight and token), beside torch's product of bfloat16 matrices of the same size.
Errors are relative root mean squares against a float64 product with the decoded weights. Medians (least to most).
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import numpy as np  # noqa: E402
import torch  # noqa: E402

from k2lite.bench.machine import machine_facts  # noqa: E402
from k2lite.bench.spread import Spread  # noqa: E402
from offload.probe_host import usable_cores  # noqa: E402
from offload.roof import ram_read_bandwidth, roof_memory  # noqa: E402
from quant.encode.decode import dequantize  # noqa: E402
from quant.encode.encode import encode  # noqa: E402
from quant.kernels import KERNELS, Kernels, make_kernels  # noqa: E402
from quant.nf4.values import NF4, encode_nf4, to_blocks  # noqa: E402
from quant.tensor import QuantizedTensor  # noqa: E402
from quant.types import BlockType, block_type  # noqa: E402

TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q5_0", "IQ4_XS", "F16", "BF16", "F32", "NF4")
_COLS = 7168
_DRAWN_ROWS = 64  # encoded; a matrix repeats them, which the memory does not notice
_ACCURACY_TOKENS = (1, 64)
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
_TRIES = 3  # as many as a roof's reads
_TORCH = "torch bf16"

Rates = dict[str, list[float]]


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"machine": machine_facts(), "threads": options.threads, "rounds": options.rounds}
    with ExitStack() as stack:
        kernels = {name: make_kernels(name, options.threads) for name in options.kernels}
        for made in kernels.values():
            stack.callback(made.close)
        result["types"] = [_measured(name, kernels, options) for name in options.types]
    print(json.dumps(result) if options.json else "\n".join(_lines(result)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in ("native", "ggml") if name in KERNELS]
    parser.add_argument("--types", type=_names(TYPES), default=list(TYPES), metavar="NAME,...")
    parser.add_argument("--kernels", type=_names(KERNELS), default=known, metavar="NAME,...")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: physical cores")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--few", type=_numbers, default=[1], metavar="N,...", help="tokens of matrix-vector products")
    parser.add_argument("--tokens", type=_numbers, default=[16, 64, 256, 512, 1024, 2048], metavar="N,...")
    parser.add_argument("--rows", type=int, default=2048, help=f"of {_COLS} weights, in matrix-matrix products")
    parser.add_argument("--megabytes", type=int, default=512, help="of the matrix in matrix-vector products")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _names(known: Any) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: known are {', '.join(known)}")
        return names

    return parse


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if int(part)]


def _measured(name: str, kernels: dict[str, Kernels], options: argparse.Namespace) -> dict[str, Any]:
    block = NF4 if name == "NF4" else block_type(name)
    serving = {key: made for key, made in kernels.items() if made.serves(block)}
    print(f"{name}: {', '.join(serving) or 'nobody multiplies it'}", file=sys.stderr)
    drawn = _encoded(block)
    return {
        "type": name,
        "errors": {key: _errors(made, drawn) for key, made in serving.items()},
        "vector": _vector(drawn, serving, options) if serving else [],
        "matrix": [_matrix(drawn, tokens, serving, options) for tokens in options.tokens] if serving else [],
    }


def _encoded(block: BlockType) -> QuantizedTensor:
    values = torch.randn(_DRAWN_ROWS, _COLS, generator=torch.Generator().manual_seed(0))
    if block != NF4:
        return QuantizedTensor(block, (_DRAWN_ROWS, _COLS), encode(values, block))
    data = np.empty(_DRAWN_ROWS * NF4.row_bytes(_COLS), np.uint8)
    to_blocks(*encode_nf4(values), data)
    return QuantizedTensor(block, (_DRAWN_ROWS, _COLS), data)


def _of_rows(drawn: QuantizedTensor, rows: int) -> QuantizedTensor:
    """A matrix with memory of its own."""
    data = np.resize(drawn.data, rows * drawn.row_bytes)
    return QuantizedTensor(drawn.type, (rows, drawn.cols), data)


def _errors(kernels: Kernels, drawn: QuantizedTensor) -> dict[str, float]:
    errors = {}
    for tokens in _ACCURACY_TOKENS:
        x = torch.randn(tokens, drawn.cols, generator=torch.Generator().manual_seed(tokens))
        exact = x.double() @ dequantize(drawn).double().T
        off = kernels.linear(x, drawn).double() - exact
        errors[str(tokens)] = float(off.norm() / exact.norm())
    return errors


def _vector(drawn: QuantizedTensor, kernels: dict[str, Kernels], options: argparse.Namespace) -> list[dict[str, Any]]:
    w = _of_rows(drawn, max(options.megabytes * 1_000_000, 3 * _cache_bytes() // 2) // drawn.row_bytes)
    memory = roof_memory()
    rows = []
    for tokens in options.few:
        x = torch.randn(tokens, drawn.cols)
        rates: Rates = defaultdict(list)
        shares: Rates = defaultdict(list)
        for _ in range(options.rounds + 1):
            before = ram_read_bandwidth(options.threads, memory)
            for name, made in kernels.items():
                rate = w.nbytes / min(_seconds(made.linear, x, w) for _ in range(_TRIES))
                after = ram_read_bandwidth(options.threads, memory)
                rates[name].append(rate)
                shares[name].append(rate / max(before, after))
                before = after
            rates["roof"].append(before)
        # The first round warms up.
        speeds = {name: asdict(Spread.of(found[1:])) for name, found in rates.items()}
        rows.append(
            {
                "tokens": tokens,
                "matrix_bytes": w.nbytes,
                "roof_bytes_per_s": speeds.pop("roof"),
                "bytes_per_s": speeds,
                "roof_share": {name: asdict(Spread.of(found[1:])) for name, found in shares.items()},
            }
        )
    return rows


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def _matrix(
    drawn: QuantizedTensor, tokens: int, kernels: dict[str, Kernels], options: argparse.Namespace
) -> dict[str, Any]:
    w = _of_rows(drawn, options.rows)
    x = torch.randn(tokens, drawn.cols)
    x_bf16, w_bf16 = x.bfloat16(), torch.randn(options.rows, drawn.cols).bfloat16()
    works: dict[str, Callable[[], object]] = {
        name: lambda made=made: made.linear(x, w)  # type: ignore[misc]
        for name, made in kernels.items()
    }
    works[_TORCH] = lambda: x_bf16 @ w_bf16.T
    rates: Rates = defaultdict(list)
    for _ in range(options.rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            rates[name].append(2 * tokens * w.rows * w.cols / (time.perf_counter() - started))
    return {"tokens": tokens, "flop_per_s": {name: asdict(Spread.of(found[1:])) for name, found in rates.items()}}


def _cache_bytes() -> int:
    """The last cache's size, 0 where the system does not say."""
    sizes = [path.read_text().strip() for path in _CACHE.glob("index*/size")]
    return max((1024 * int(size[:-1]) for size in sizes if size.endswith("K")), default=0)


def _lines(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {result['threads']} threads of {os.cpu_count()} cores, load {machine['load_average']:.1f}",
        "",
        "matrix-vector  tokens  kernels          GB/s (least to most)    % of its round's roof   roof, GB/s   error",
    ]
    for row in result["types"]:
        for few in row["vector"]:
            for name, speed in few["bytes_per_s"].items():
                lines.append(
                    f"{row['type']:14} {few['tokens']:6}  {name:10} {_spread(speed, 1e9):>28}  "
                    f"{_spread(few['roof_share'][name], 0.01):>25}   {few['roof_bytes_per_s']['median'] / 1e9:10.1f}   "
                    f"{row['errors'][name]['1']:.2e}"
                )
    lines += ["", "matrix-matrix  tokens  kernels          GFLOP/s (least to most)   error"]
    for row in result["types"]:
        for many in row["matrix"]:
            for name, speed in many["flop_per_s"].items():
                error = f"{row['errors'][name]['64']:.2e}" if name in row["errors"] else ""
                lines.append(f"{row['type']:14} {many['tokens']:6}  {name:10} {_spread(speed, 1e9):>28}   {error}")
    return lines


def _spread(speed: dict[str, float], unit: float) -> str:
    median, least, most = (speed[key] / unit for key in ("median", "least", "most"))
    return f"{median:.1f} ({least:.1f} to {most:.1f})"


if __name__ == "__main__":
    sys.exit(main())
