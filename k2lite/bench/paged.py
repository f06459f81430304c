"""A file that is larger than its budget, decoded: how fast, how much was read, and how fast the drive was meanwhile."""

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from k2lite.bench.memory_limit import forget_cached, memory_group
from k2lite.bench.options import BenchOptions
from k2lite.bench.worker import Worker
from k2lite.config_gguf import config_from_gguf
from k2lite.engine_options import EngineOptions
from k2lite.expert_names import is_expert_tensor
from k2lite.expert_slabs import expert_slabs
from k2lite.load_gguf import GgufTensors
from k2lite.ram_budget import budget_with_slots
from k2lite.weights import WeightReader
from offload.build import layout_of
from offload.probe_drive import probe_drive
from quant.gguf.gguf_file import GgufFile

_SEEDS = 1 << 31
_PROBE_S = 0.5


@dataclass(frozen=True)
class PagedRound:
    """`read_experts` a token and a layer. The drive was probed just before."""

    token_s: float
    read_experts: float
    drive_bytes_per_s: float


def measure_paged(options: BenchOptions, share: float) -> list[PagedRound]:
    """Decode with slots for about `share` of the experts, after as many tokens as fill them. Raises K2Error."""
    with GgufFile.open(options.path) as file:
        config = config_from_gguf(file.metadata)
        layers = [layer for layer in range(config.n_layers) if not config.is_dense(layer)]
        layout = layout_of(
            expert_slabs(file, WeightReader(config, GgufTensors(file)), layers), config.experts_per_token
        )
        resident = sum(info.nbytes for name, info in file.tensors.items() if not is_expert_tensor(name))
        expert_bytes = sum(info.nbytes for name, info in file.tensors.items() if is_expert_tensor(name))
    mean_bytes = expert_bytes / (len(layers) * config.n_experts)
    budget = budget_with_slots(config, resident, int(share * layout.total_bytes))
    with ExitStack() as stack:
        group = None
        if options.memory_limit_bytes is not None:
            group = stack.enter_context(memory_group(options.memory_limit_bytes, label="-paged"))
        worker = stack.enter_context(Worker("k2lite"))
        if group is not None:
            group.add(worker.pid)
        forget_cached([options.path])
        worker.ask(
            "load",
            path=str(options.path),
            capacity=options.capacity,
            threads=options.threads,
            pin=options.pin_threads,
            kernels=options.kernels or EngineOptions.kernels,
            ram_budget_bytes=budget,
        )
        tokens = options.decode_tokens
        worker.ask("decode", tokens=tokens, depth=0, seed=secrets.randbelow(_SEEDS))
        return [_round(worker, options.path, tokens, mean_bytes * len(layers)) for _ in range(options.rounds)]


def _round(worker: Worker, path: Path, tokens: int, bytes_of_one_each: float) -> PagedRound:
    drive = probe_drive(path, _PROBE_S).bytes_per_s
    answer = worker.ask("decode", tokens=tokens, depth=0, seed=secrets.randbelow(_SEEDS))
    read = answer["counters"]["drive_bytes"] / tokens / bytes_of_one_each
    return PagedRound(answer["seconds"] / tokens, read, drive)
