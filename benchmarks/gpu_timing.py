"""Timing on a card: many launches in one graph, medians over replays, and weights that no cache holds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.kernels.card import SlotTable
from quant.types import BlockType, block_type

REPLAYS = 15
HALVES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # where scales lie in a block; at 0 alone in all others
ROTATED_BYTES = 3 << 30  # of weights, in turn: many times what a card's cache holds


@dataclass(frozen=True)
class Timing:
    """Seconds: the median of several runs, the fastest and the slowest."""

    median: float
    least: float
    most: float

    def of(self, parts: int) -> "Timing":
        """The time of one of `parts` equal parts."""
        return Timing(self.median / parts, self.least / parts, self.most / parts)


def timed(run: Callable[[], object], replays: int = REPLAYS) -> Timing:
    """Device time of what `run` queues."""
    run()
    torch.cuda.synchronize()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    times.sort()
    return Timing(times[len(times) // 2], times[0], times[-1])


def recorded(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """What `run` queues as a graph, after a first run that compiles."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def kernel_seconds(run: Callable[[], object]) -> dict[str, float]:
    """Seconds that each kernel of `run` takes on the device, by name, without the gaps between them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return {event.key: event.self_device_time_total / 1e6 for event in profiler.key_averages()}


def random_bytes(block: BlockType, nbytes: int, device: str | torch.device = "cuda") -> Tensor:
    """Blocks of random bytes on the card, with small scales."""
    data = torch.empty(nbytes, dtype=torch.uint8, device=device).random_(0, 256)
    blocks = data[: nbytes // block.block_bytes * block.block_bytes].view(-1, block.block_bytes)
    for offset in HALVES.get(block.name, (0,)):
        halves = (torch.rand(len(blocks), device=device) * 1e-3 + 5e-4).half()
        blocks[:, offset : offset + 2] = halves.view(torch.uint8).view(-1, 2)
    return data


def slot_table(types: tuple[str, str], ff: int, hidden: int, experts: int, places: int) -> SlotTable:
    """Random experts in `places` places of an arena; `experts` slots share them in turn."""
    gate_up, down = (block_type(name) for name in types)
    wide, deep = gate_up.nbytes((ff, hidden)), down.nbytes((hidden, ff))
    gates, downs = random_bytes(gate_up, 2 * places * wide), random_bytes(down, places * deep)
    arena = torch.cat((gates, downs))
    place = torch.arange(experts, device="cuda") % places
    starts = (2 * place * wide, (2 * place + 1) * wide, 2 * places * wide + place * deep)
    return SlotTable(arena, torch.stack(starts, dim=1).contiguous(), gate_up, down, ff, hidden)
