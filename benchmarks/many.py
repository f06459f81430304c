"""Products with many tokens: billions of operations a second (two per weight and token), by type, shape and tokens.

    python -m benchmarks.many [--types Q4_K Q6_K] [--tokens 16 64 512] [--shapes 2048x7168] [--isa avx2] [--json]

In one thread, and with a pool of as many as the machine has cores; beside each, in turn in the same rounds, torch's
product of bfloat16 matrices of the same size with as many threads. What is shown is the fastest of the rounds, since
neighbours on the machine only ever take from it; --json has medians too. Quantizing activations counts as ours.
Processor time says nothing here: in calls this short the system has not yet counted what other threads are running.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import torch  # noqa: E402

from offload.probe_host import usable_cores  # noqa: E402
from quant.kernels.native import NativeKernels  # noqa: E402
from quant.native_library import ISAS, NativeLibrary, load_native  # noqa: E402
from quant.tensor import QuantizedTensor  # noqa: E402
from quant.types import BlockType  # noqa: E402
from tests.quant.native.row_products import NAMES, TYPES  # noqa: E402
from tests.quant.random_weights import random_weights  # noqa: E402

_SHAPES = ("2048x7168", "7168x2048", "1408x2048", "2048x1408")  # rows x cols: experts of K2, then of Moonlight


def main() -> int:
    options = _options()
    library = load_native()
    library.use(options.isa)
    kernels = NativeKernels(options.threads, library)
    results = []
    for block in (block for name, block in zip(NAMES, TYPES, strict=True) if name in options.types):
        for shape in options.shapes:
            rows, cols = (int(size) for size in shape.split("x"))
            if cols % block.block_weights:
                continue
            w = random_weights(block, (rows, cols))
            for tokens in options.tokens:
                result = _measured(library, kernels, w, tokens, options)
                results.append({"type": block.name, "shape": shape, "tokens": tokens, **result})
                if not options.json:
                    print(_line(results[-1]), flush=True)
    kernels.close()
    if options.json:
        print(json.dumps({"isa": options.isa, "threads": options.threads, "results": results}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 32, 64, 128, 512])
    parser.add_argument("--shapes", nargs="+", default=_SHAPES, metavar="ROWSxCOLS")
    parser.add_argument("--isa", choices=tuple(ISAS), default=load_native().isa)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the pool (default: physical cores)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _measured(
    library: NativeLibrary, kernels: NativeKernels, w: QuantizedTensor, tokens: int, options: argparse.Namespace
) -> dict[str, Any]:
    x = torch.randn(tokens, w.cols)
    x_bf16, w_bf16 = x.bfloat16(), torch.randn(w.rows, w.cols).bfloat16()
    works: dict[str, Callable[[], object]] = {
        "one": lambda: _one_thread(library, w.type, w, x),
        "torch_one": lambda: _torch(x_bf16, w_bf16, 1),
        "pool": lambda: kernels.linear(x, w),
        "torch_pool": lambda: _torch(x_bf16, w_bf16, options.threads),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, work in works.items():
            work()  # what the other left in the caches is no part of it
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    operations = 2e-9 * w.rows * w.cols * tokens
    best = {name: round(operations / min(taken), 1) for name, taken in seconds.items()}
    medians = {f"{name}_median": round(operations / statistics.median(taken), 1) for name, taken in seconds.items()}
    return best | medians


def _one_thread(library: NativeLibrary, block: BlockType, w: QuantizedTensor, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty(x.shape[0], w.rows)
    sizes = (w.rows, w.cols, x.data_ptr(), x.shape[0], 1, y.data_ptr())
    library.call("k2quant_multiply", block.ggml_id, w.data.ctypes.data, *sizes)
    return y


def _torch(x: torch.Tensor, w: torch.Tensor, threads: int) -> torch.Tensor:
    torch.set_num_threads(threads)
    return x @ w.T


def _line(result: dict[str, Any]) -> str:
    head = f"{result['type']:7} {result['shape']:>9} {result['tokens']:5} tokens:"
    one, pool = (f"{result[name]:5.0f}, torch bf16 {result[f'torch_{name}']:5.0f}" for name in ("one", "pool"))
    return f"{head} one thread {one}; pool {pool}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    raise SystemExit(main())
