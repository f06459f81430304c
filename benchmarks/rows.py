"""One thread multiplies rows of every type: how fast weights are read, from the second cache and from memory.

    python -m benchmarks.rows [--isa avx2] [--types Q4_K Q6_K] [--tokens 1 2 4 8] [--many] [--json]

Gigabytes of weights a second, each weight counted once however many tokens it is multiplied with; the best of the
rounds. What a call costs beside its rows, such as activations to levels, is measured with a single row and taken off.
"read" is the roof: the sum of the same memory's words by numpy.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from quant.native_library import ISAS, NativeLibrary, load_native
from quant.nf4.values import NF4
from quant.types import BlockType, block_type

_NAMES = ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q8_0", "Q4_0", "Q5_0", "F16", "BF16", "F32", "NF4")
_NEAR_BYTES = 640 << 10  # stays in the second cache, with the activations


def main() -> int:
    options = _options()
    isas = options.isa or load_native().isas()
    memory = np.random.default_rng(1).integers(0, 256, max(options.far, 1) << 20, dtype=np.uint8)
    results = []
    if options.far:
        words = memory.view(np.uint64)
        results.append({"read_gb_s": round(memory.nbytes / _best(words.sum, 5) / 1e9, 1)})
    for isa in isas:
        library = load_native()
        library.use(isa)
        for name in options.types:
            block = NF4 if name == "NF4" else block_type(name)
            for tokens in options.tokens:
                near = _speed(library, block, memory[:_NEAR_BYTES], tokens, options)
                far = _speed(library, block, memory, tokens, options) if options.far else None
                results.append({"isa": isa, "type": name, "tokens": tokens, "near_gb_s": near, "far_gb_s": far})
                if not options.json:
                    print(f"{isa:11} {name:7} {tokens:2} tokens: {near:6.1f} near, {far or '-':>6} far", flush=True)
    print(json.dumps(results) if options.json else results[0])
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", choices=tuple(ISAS), help="default: all that this machine has")
    parser.add_argument("--types", nargs="+", choices=_NAMES, default=_NAMES)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--cols", type=int, default=7168)
    parser.add_argument("--far", type=int, default=256, help="MB of the large matrix (default: 256; 0: none)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--many", action="store_true", help="the kernels for many tokens")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _speed(
    library: NativeLibrary, block: BlockType, memory: np.ndarray, tokens: int, options: argparse.Namespace
) -> float:
    row_bytes = block.row_bytes(options.cols)
    rows = memory.nbytes // row_bytes
    x, y = torch.randn(tokens, options.cols), torch.empty(tokens, rows)

    def multiply(count: int) -> None:
        arguments = (memory.ctypes.data, count, options.cols, x.data_ptr(), tokens, int(options.many), y.data_ptr())
        library.call("k2quant_multiply", block.ggml_id, *arguments)

    repeats = max(1, (8 << 20) // memory.nbytes)

    def several(count: int) -> None:
        for _ in range(repeats):
            multiply(count)

    seconds = _best(lambda: several(rows), options.rounds) - _best(lambda: several(1), options.rounds)
    return round((rows - 1) * row_bytes * repeats / seconds / 1e9, 1)


def _best(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some rounds, after one that does not count."""
    work()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
