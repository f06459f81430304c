"""The most memory that a process has resident at any moment, beside its --ram-budget.

    k2lite synth slice.gguf --shape k2 --layers 5 --experts 64 --vocab 32768 --type Q4_K_S
    python -m benchmarks.offload_memory slice.gguf --budgets 2G 3G 4.5G

For each budget a process loads the model, reads a prompt of 2,048 tokens, decodes, and reads a second prompt, while its
resident memory is looked at every 10 ms; the system's own high-water mark of each phase catches what that misses. What
is above budget and KV cache is k2lite itself, Python and torch. Results are JSON on stdout; exit status 1 when that is
more than 300 MB at any moment.
"""

import argparse
import json
import secrets
import sys
import threading
from pathlib import Path
from typing import Any

from k2lite.bench.worker import Worker
from k2lite.config_gguf import config_from_gguf
from k2lite.kv_cache import cache_bytes
from k2lite.sizes import parse_size
from quant.gguf.gguf_file import GgufFile

_SAMPLE_S = 0.01
_MOST_ABOVE_BYTES = 300_000_000
_RESET_PEAK = "5"


def main() -> int:
    options = _options()
    with GgufFile.open(options.path) as file:
        cache = cache_bytes(config_from_gguf(file.metadata), _capacity(options))
    results = [_measured(options, budget, cache) for budget in options.budgets]
    most = max(result["most_above_bytes"] for result in results)
    found = {"cache_bytes": cache, "allowed_above_bytes": _MOST_ABOVE_BYTES, "most_above_bytes": most}
    print(json.dumps({**found, "budgets": results}, indent=2))
    return int(most > _MOST_ABOVE_BYTES)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="GGUF file, larger than every budget")
    parser.add_argument("--budgets", type=parse_size, nargs="+", required=True)
    parser.add_argument("--prompt-tokens", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=48)
    return parser.parse_args()


def _capacity(options: argparse.Namespace) -> int:
    return int(options.prompt_tokens + options.tokens + 16)


def _measured(options: argparse.Namespace, budget: int, cache: int) -> dict[str, Any]:
    peaks: dict[str, int] = {}
    with Worker("k2lite") as worker:
        load = {"path": str(options.path), "capacity": _capacity(options), "threads": None, "kernels": "native"}
        phases = {
            "load": ("load", load | {"ram_budget_bytes": budget}),
            "long prompt": ("prefill", {"tokens": options.prompt_tokens}),
            "decode": ("decode", {"tokens": options.tokens, "depth": 0}),
            "second long prompt": ("prefill", {"tokens": options.prompt_tokens}),
        }
        for phase, (command, arguments) in phases.items():
            if command != "load":
                arguments["seed"] = secrets.randbelow(1 << 31)
            with Peak(worker.pid) as peak:
                worker.ask(command, **arguments)
            peaks[phase] = peak.nbytes
            print(f"{budget / 1e9:.2f} GB, {phase}: {peak.nbytes / 1e9:.3f} GB", file=sys.stderr)
    above = max(peaks.values()) - budget - cache
    return {"ram_budget_bytes": budget, "peak_rss_bytes": peaks, "most_above_bytes": above}


class Peak:
    """The most resident memory of a process while the block lasts."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.nbytes = 0

    def __enter__(self) -> "Peak":
        (self._folder / "clear_refs").write_text(_RESET_PEAK)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.nbytes = max(self.nbytes, self._status("VmHWM"))

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self.nbytes = max(self.nbytes, self._status("VmRSS"))

    def _status(self, name: str) -> int:
        """A figure of the process in bytes: the system tells kilobytes."""
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    raise SystemExit(main())
