"""A model larger than memory: k2lite and llama.cpp under the same limits, beside what the drive gives.

    k2lite synth slice.gguf --shape k2 --layers 5 --experts 64 --vocab 32768 --type Q4_K_S
    python -m benchmarks.offload decode slice.gguf --limit 4G          both sides under one limit, new tokens each time
    python -m benchmarks.offload cold slice.gguf                       first token, nothing in the page cache
    python -m benchmarks.offload prefill slice.gguf --share 0.25       2,048 tokens when a quarter of the experts fits

Every round measures the drive too: direct reads of random experts of the same file, as the manager reads them. Each
side lives in a control group of its own with the same limit, and sleeps while the other is measured; where both limits
together are more than three quarters of the memory, one side is measured after the other. llama.cpp maps the
file and does not repack it: with repacking it does not come to an end under a limit. Results are JSON on stdout.
"""

import argparse
import json
import random
import secrets
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import psutil  # noqa: E402
import torch  # noqa: E402

from k2lite import own_memory  # noqa: E402
from k2lite.bench.memory_limit import forget_cached, memory_group  # noqa: E402
from k2lite.bench.spread import Spread, ratios  # noqa: E402
from k2lite.bench.worker import Worker  # noqa: E402
from k2lite.config_gguf import config_from_gguf  # noqa: E402
from k2lite.expert_names import is_expert_tensor  # noqa: E402
from k2lite.expert_slabs import expert_slabs  # noqa: E402
from k2lite.load import LoadedModel, load_model, usable_cores  # noqa: E402
from k2lite.load_gguf import GgufTensors  # noqa: E402
from k2lite.own_memory import PromptMemory, budget_for, own_bytes  # noqa: E402
from k2lite.prompt import encode_raw  # noqa: E402
from k2lite.sizes import parse_size  # noqa: E402
from k2lite.tokenizer import Tokenizer  # noqa: E402
from k2lite.weights import WeightReader  # noqa: E402
from offload.arena import Arena  # noqa: E402
from offload.chunk_in_ram import ATTENTION_TOKENS  # noqa: E402
from offload.drive import Drive  # noqa: E402
from offload.memory_options import MemoryOptions  # noqa: E402
from offload.reader import DriveReader, Urgency  # noqa: E402
from offload.slabs import SlabMap  # noqa: E402
from offload.slots import SizeClass, Slot  # noqa: E402
from quant.gguf.gguf_file import GgufFile  # noqa: E402

_ROOF_SLOTS = 16
_FRESH_SLOTS = 64
# More for all limits together, and the sides are measured one after the other.
_MOST_OF_MEMORY = 0.75
_COLD_PROMPTS = (1, 8)


def main() -> int:
    options = _options()
    result = {"decode": _decode, "cold": _cold, "prefill": _prefill}[options.what](options)
    print(json.dumps({"what": options.what, "file_bytes": options.path.stat().st_size, **result}, indent=2))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("decode", "cold", "prefill"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--limit", type=parse_size, default=parse_size("4G"), help="memory of each side")
    parser.add_argument("--share", type=float, default=0.25, help="of the experts that fits, for prefill")
    parser.add_argument("--prompt-tokens", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=16, help="decoded by k2lite in a round")
    parser.add_argument("--peer-tokens", type=int, default=4, help="by llama.cpp, which may take seconds for one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="k2lite and the drive alone")
    return parser.parse_args()


class DriveRoof:
    """Direct reads of random experts, as many at a time as the manager has under way."""

    def __init__(self, path: Path) -> None:
        with GgufFile.open(path) as file:
            config = config_from_gguf(file.metadata)
            layers = [layer for layer in range(config.n_layers) if not config.is_dense(layer)]
            self.slabs: SlabMap = expert_slabs(file, WeightReader(config, GgufTensors(file)), layers)
            resident = (info.nbytes for name, info in file.tensors.items() if not is_expert_tensor(name))
            self.resident_bytes = sum(resident)
        self.keys = [(layer, expert) for layer, found in self.slabs.layers.items() for expert in range(found.experts)]
        self.slot_bytes = max(found.slot_bytes for found in self.slabs.layers.values())
        self._arena = Arena([SizeClass(self.slot_bytes, _ROOF_SLOTS)], [_ROOF_SLOTS])

    def fresh_bytes_per_s(self) -> float:
        """The same into memory that nobody has used before: a process that has only just begun has no other."""
        arena = Arena([SizeClass(self.slot_bytes, _FRESH_SLOTS)], [_FRESH_SLOTS])
        return self.bytes_per_s(_FRESH_SLOTS, arena, _FRESH_SLOTS)

    def bytes_per_s(self, experts: int = 96, arena: Arena | None = None, slots: int = _ROOF_SLOTS) -> float:
        """Bytes of experts a second."""
        memory = arena or self._arena
        chosen = random.sample(self.keys, experts)
        nbytes, started = 0, time.perf_counter()
        with Drive(self.slabs.paths) as drive, DriveReader([drive]) as reader:
            free, waiting = list(range(slots)), list(chosen)
            used: dict[tuple[int, int], int] = {}
            while waiting or reader.open_reads:
                while waiting and free:
                    key = waiting.pop()
                    used[key] = free.pop()
                    pieces = self.slabs.pieces(key, memory.view(Slot(0, used[key])))
                    reader.submit(key, pieces, Urgency.DEMAND)
                for read in reader.collect(None):
                    nbytes += read.nbytes
                    free.append(used.pop(read.key))
        return nbytes / (time.perf_counter() - started)


def _decode(options: argparse.Namespace) -> dict[str, Any]:
    """New tokens under a limit."""
    decoding, names = _Decoding(options), ["k2lite"] if options.no_peer else ["k2lite", "llama.cpp"]
    together = len(names) * options.limit < _MOST_OF_MEMORY * psutil.virtual_memory().total
    for group in [names] if together else [[name] for name in names]:
        with ExitStack() as stack:
            for name in group:
                decoding.open(name, stack)
            for number in range(options.rounds):
                decoding.probe_drive()
                for name in group if number % 2 else group[::-1]:
                    decoding.decode(name)
                print(decoding.latest(), file=sys.stderr)
            decoding.close()
    return decoding.result() | {"limit_bytes": options.limit, "interleaved": together}


class _Decoding:
    """Both sides, as far as they are open, and what was measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._roof = options, DriveRoof(options.path)
        self._sides: dict[str, Worker] = {}
        self._threads = usable_cores()
        self._rates: dict[str, list[float]] = {"drive": [], "k2lite": [], "llama.cpp": []}
        self._read_bytes, self._shares, self._peaks = list[float](), list[float](), dict[str, int]()

    def open(self, name: str, stack: ExitStack) -> None:
        """Load a side under the limit and fill its memory."""
        forget_cached([self._options.path])  # what lies there already would not count against the limit
        side = self._sides[name] = _limited(stack, name, self._options.limit)
        if name == "k2lite":
            self._threads = side.ask("load", **_load(self._options, capacity=512))["threads"]
        else:
            path = str(self._options.path)
            side.ask("load", path=path, capacity=512, threads=self._threads, repack=False)
            side.ask("choose", prefill_tokens=[], depth=0, tokens=self._options.peer_tokens)  # fills its memory too
            return
        side.ask("decode", tokens=2 * self._options.tokens, depth=0, seed=_seed())

    def probe_drive(self) -> None:
        """At the beginning of a round."""
        self._rates["drive"].append(self._roof.bytes_per_s())

    def decode(self, name: str) -> None:
        """One side's part of a round."""
        tokens = self._options.tokens if name == "k2lite" else self._options.peer_tokens
        answer = self._sides[name].ask("decode", tokens=tokens, depth=0, seed=_seed())
        self._rates[name].append(tokens / answer["seconds"])
        if name == "k2lite":
            self._read_bytes.append(answer["counters"].get("drive_bytes", 0) / tokens)
            self._shares.append(self._rates[name][-1] * self._read_bytes[-1] / self._rates["drive"][-1])

    def close(self) -> None:
        """Note what the open sides took; who opened them ends them."""
        self._peaks |= {name: side.ask("facts")["peak_rss_bytes"] for name, side in self._sides.items()}
        self._sides = {}

    def latest(self) -> dict[str, float]:
        """For who waits."""
        return {name: round(found[-1], 2) for name, found in self._rates.items() if found}

    def result(self) -> dict[str, Any]:
        """All rounds."""
        result: dict[str, Any] = {f"{name}_per_s": _spread(found) for name, found in self._rates.items() if found}
        result |= {"drive_bytes_per_token": _spread(self._read_bytes), "drive_share": _spread(self._shares)}
        if self._rates["llama.cpp"]:
            result["ratio"] = _spread(ratios(self._rates["k2lite"], self._rates["llama.cpp"]))
        return result | {"peak_rss_bytes": self._peaks}


def _cold(options: argparse.Namespace) -> dict[str, Any]:
    """From the start of the process to the first token behind short prompts, with an empty page cache.

    The bound is the time in which the drive brings what has to be read: all weights but the experts, and those experts
    that the prompt goes to. With "fresh memory" it counts that a process has no memory before it asks for some.
    """
    roof = DriveRoof(options.path)
    results = {}
    for tokens in _COLD_PROMPTS:
        prompts = _Prompts(options.path, tokens)
        seconds: dict[str, list[float]] = {"bound": [], "bound, fresh memory": [], "k2lite": [], "llama.cpp": []}
        for number in range(options.rounds):
            drive, fresh = roof.bytes_per_s(), roof.fresh_bytes_per_s()
            sides = ("k2lite", "llama.cpp")
            for name in sides if number % 2 else sides[::-1]:
                forget_cached([options.path])
                if name == "llama.cpp":
                    seconds[name].append(_first_of_peer(options.path, tokens))
                    continue
                taken, used_bytes = _first_of_ours(options.path, prompts.draw())
                seconds[name].append(taken)
                seconds["bound"].append((roof.resident_bytes + used_bytes) / drive)
                seconds["bound, fresh memory"].append((roof.resident_bytes + used_bytes) / fresh)
            print(tokens, {name: round(found[-1], 2) for name, found in seconds.items()}, file=sys.stderr)
        result = {f"{name}_s": _spread(found) for name, found in seconds.items()}
        result["share_of_peer"] = _spread(ratios(seconds["k2lite"], seconds["llama.cpp"]))
        result["times_the_bound"] = _spread(ratios(seconds["k2lite"], seconds["bound"]))
        results[f"prompt of {tokens}"] = result
    return results


class _Prompts:
    """Texts of so many tokens, never the same one twice."""

    def __init__(self, path: Path, tokens: int) -> None:
        with GgufFile.open(path) as file:
            self._tokenizer = Tokenizer.from_gguf(file.metadata)
        self._tokens = tokens

    def draw(self) -> str:
        """A text that is exactly so long, with what the tokenizer puts in front."""
        while True:
            count = random.randint(1, self._tokens)  # such texts fall apart into more tokens than were drawn
            ids = [random.randrange(self._tokenizer.vocab_size) for _ in range(count)]
            text = self._tokenizer.decode(ids)
            if "\0" not in text and text and len(encode_raw(text, self._tokenizer).ids) == self._tokens:
                return text


def _first_of_ours(path: Path, prompt: str) -> tuple[float, int]:
    """Seconds from the start of `k2lite run` to the end of its first token, and the bytes of experts that it used."""
    command = [sys.executable, "-m", "k2lite.cli.main", "run", path, "--raw", f"--prompt={prompt}", "-n", 1, "--json"]
    arguments = [str(part) for part in command]
    started = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline())
        return time.perf_counter() - started, answer["tiers"]["ram_bytes"]


def _first_of_peer(path: Path, tokens: int) -> float:
    """The same of llama.cpp, mapped, without what our command line takes to begin."""
    started = time.perf_counter()
    with Worker("llama.cpp") as side:
        side.ask("load", path=str(path), capacity=64, threads=usable_cores(), repack=False)
        side.ask("first", tokens=tokens, seed=_seed())
        return time.perf_counter() - started


def _prefill(options: argparse.Namespace) -> dict[str, Any]:
    """A prompt when only a share of the experts fits, beside the arithmetic alone and the reads alone."""
    roof = DriveRoof(options.path)
    torch.set_num_threads(usable_cores())
    slots = int(options.share * len(roof.keys)) * roof.slot_bytes
    with ExitStack() as stack:
        whole = load_model(options.path)
        stack.callback(whole.close)
        whole.model.settle()
        # The chunk's buffers come on top of what the experts and all other weights take.
        budget = _budget_for(slots, roof.resident_bytes, whole, options.prompt_tokens)
        paged = load_model(options.path, memory=MemoryOptions(ram_budget_bytes=budget))
        stack.callback(paged.close)
        seconds: dict[str, list[float]] = {"arithmetic": [], "paged": [], "reads": []}
        fills = []
        for _ in range(options.rounds):
            missing = sum(places.count(".") for places in paged.model.experts_state().places.values())
            fills.append(1 - missing / len(roof.keys))
            seconds["reads"].append(missing * roof.slot_bytes / roof.bytes_per_s())
            ids = torch.randint(whole.model.config.vocab_size, (options.prompt_tokens,))
            for name, loaded in (("arithmetic", whole), ("paged", paged)):
                cache = loaded.model.new_cache(options.prompt_tokens)
                started = time.perf_counter()
                loaded.model.forward(ids, cache)
                seconds[name].append(time.perf_counter() - started)
            print({name: round(found[-1], 2) for name, found in seconds.items()}, file=sys.stderr)
        chunk = paged.model.prefill_tokens
    roofs = [max(pair) for pair in zip(seconds["arithmetic"], seconds["reads"], strict=True)]
    result = {f"{name}_s": _spread(found[1:]) for name, found in seconds.items()}
    result["times_the_larger"] = _spread(ratios(seconds["paged"], roofs)[1:])
    return result | {"share_in_ram": fills[1:], "chunk_tokens": chunk, "ram_budget_bytes": budget}


def _budget_for(slot_bytes: int, resident_bytes: int, whole: LoadedModel, tokens: int) -> int:
    """A budget of which this is left for slots when a short prompt is read."""
    config = whole.model.config
    buffers = PromptMemory(config, usable_cores()).bytes_of(min(ATTENTION_TOKENS, tokens))
    return budget_for(slot_bytes + resident_bytes + buffers, own_bytes(config, own_memory.resident_bytes()))


def _limited(stack: ExitStack, side: str, limit_bytes: int) -> Worker:
    group = stack.enter_context(memory_group(limit_bytes, label=f"-{side}"))
    worker = stack.enter_context(Worker(side))
    group.add(worker.pid)
    return worker


def _load(options: argparse.Namespace, capacity: int, settled: bool = True) -> dict[str, Any]:
    return {
        "path": str(options.path),
        "capacity": capacity,
        "threads": None,
        "kernels": "native",
        "settled": settled,
    }


def _seed() -> int:
    return secrets.randbelow(1 << 31)


def _spread(values: list[float]) -> dict[str, float]:
    found = Spread.of(values)
    return {"median": found.median, "least": found.least, "most": found.most}


if __name__ == "__main__":
    raise SystemExit(main())
