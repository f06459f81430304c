"""The card kernels at K2's width, beside what the card itself can do: one JSON line for each figure.

    python -m benchmarks.gpu [--only NAME,...]

Needs torch, triton, numpy, safetensors and gguf alone, and takes a few minutes, most of them for compiling. The first
line names the device, its driver and all versions. Weights are random bytes, more than 1 GB in turn, so that no cache
holds what comes next. Times are device times of recorded graphs: the median, with the fastest and the slowest run.
"of_copy" is the share of the measured copy bandwidth (bytes read and written), "of_matmul" of torch's bfloat16 product,
"of_link" of a copy from pinned memory. The engine's own figures are those of a clock on the wall.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import triton

from benchmarks import gpu_decode, gpu_engine, gpu_link, gpu_prefill
from benchmarks.gpu_timing import timed
from quant.kernels.triton.kernels import TritonKernels

Figure = dict[str, Any]
_COPY_BYTES = 2 << 30
_LINK_BYTES = 256 << 20
_MATMUL = 8192

# Name -> what yields its figures, given the kernels and the roofs that were measured before.
MEASUREMENTS: dict[str, Callable[[TritonKernels, Figure], Iterator[Figure]]] = {
    "vector": gpu_decode.vector,
    "experts": gpu_decode.experts,
    "batches": gpu_decode.batches,
    "layer": gpu_decode.layer,
    "link": gpu_link.link,
    "promotion": gpu_link.promotion,
    "prefill": gpu_prefill.prefill,
    "engine": gpu_engine.engine,
}


def main() -> int:
    options = _options()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing can be measured", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    print(json.dumps(_header()), flush=True)
    roofs = _roofs()
    print(json.dumps({"figure": "roofs"} | roofs), flush=True)
    kernels = TritonKernels()
    for name in options.only:
        for figure in MEASUREMENTS[name](kernels, roofs):
            print(json.dumps({"figure": name} | figure), flush=True)
        torch.cuda.empty_cache()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_names, default=list(MEASUREMENTS), metavar="NAME,...")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: known are {', '.join(MEASUREMENTS)}")
    return names


def _header() -> Figure:
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    return {
        "figure": "machine",
        "device": properties.name,
        "driver": driver,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cache_bytes": properties.L2_cache_size,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def _roofs() -> Figure:
    """What the card does without us: a copy in its own memory, and a large product of bfloat16 matrices."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda").random_(0, 256)
    copy = timed(partial(torch.empty_like(source).copy_, source))
    a, b = (torch.randn(_MATMUL, _MATMUL, device="cuda").bfloat16() for _ in range(2))
    matmul = timed(partial(torch.matmul, a, b))
    pinned, target = torch.empty(_LINK_BYTES, dtype=torch.uint8).pin_memory(), source[:_LINK_BYTES]
    link = timed(partial(target.copy_, pinned, non_blocking=True))
    flop = 2 * _MATMUL**3
    return {
        "copy_bytes_per_s": 2 * _COPY_BYTES / copy.median,
        "copy_least": 2 * _COPY_BYTES / copy.most,
        "copy_most": 2 * _COPY_BYTES / copy.least,
        "link_bytes_per_s": _LINK_BYTES / link.median,
        "matmul_flop_per_s": flop / matmul.median,
        "matmul_least": flop / matmul.most,
        "matmul_most": flop / matmul.least,
    }


if __name__ == "__main__":
    sys.exit(main())
