"""One to eight tokens through K2's matrices: single products, a layer's experts, and a layer's products in all."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_timing import ROTATED_BYTES, Timing, kernel_seconds, random_bytes, recorded, slot_table, timed
from quant.kernels.card import CardTensor, SlotTable
from quant.kernels.triton.kernels import TritonKernels
from quant.types import block_type

Figure = dict[str, Any]
TYPES = ("Q4_K", "Q6_K", "Q8_0", "Q4_0", "Q5_K", "Q5_0", "IQ4_XS")
HIDDEN, FF, USED, LAYERS = 7168, 2048, 8, 60
ROWS = 18432  # of K2's dense layer
PLACES = 96  # twelve layers' choices of eight experts: more than 2 GB
PAIRS = [(name, name) for name in TYPES] + [("Q4_K", "Q6_K")]
# A layer beside its experts: rows, columns and heads of each matrix, with the type that Q4_K_M gives it.
LAYER = (
    ("q_a", "Q4_K", (1536, 7168)),
    ("q_b", "Q4_K", (12288, 1536)),
    ("kv_a", "Q4_K", (576, 7168)),
    ("k_b", "Q5_0", (64, 512, 128)),
    ("v_b", "Q4_K", (64, 128, 512)),
    ("output", "Q4_K", (7168, 8192)),
)


def vector(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """Products of one matrix: the door (activations encoded, then multiplied) and the multiplying kernel alone."""
    for name in TYPES:
        for tokens in (1, 2, 4, 8) if name in ("Q4_K", "Q6_K", "Q8_0") else (1, 8):
            block = block_type(name)
            size = block.nbytes((ROWS, HIDDEN))
            data = random_bytes(block, ROTATED_BYTES // size * size)
            matrices = [CardTensor(block, (ROWS, HIDDEN), part) for part in data.split(size)]
            x = torch.randn(tokens, HIDDEN, device="cuda")
            graph = recorded(partial(run_all, [partial(kernels.linear, x, w) for w in matrices]))
            time = timed(graph.replay).of(len(matrices))
            yield {"type": name, "tokens": tokens, "rows": ROWS, "cols": HIDDEN} | _speed(
                time, size, roofs, _share_of_kernels(graph, {"kernel": ("linear_kernel", size * len(matrices))}, roofs)
            )


def experts(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """One token through eight experts of many: everything from x to y, each kernel alone, and without a graph."""
    for types in PAIRS:
        table = slot_table(types, FF, HIDDEN, PLACES, PLACES)
        layers = layer_calls(kernels, table, tokens=1)
        graph = recorded(partial(run_all, layers))
        time = timed(graph.replay).of(len(layers))
        eager = timed(partial(run_all, layers)).of(len(layers))
        wide, deep = 2 * USED * table.gate_bytes, USED * table.down_bytes
        parts = {"gate_up": ("gate_up_kernel", wide * len(layers)), "down": ("down_kernel", deep * len(layers))}
        yield (
            {"types": "/".join(types), "tokens": 1, "used": USED}
            | _speed(time, wide + deep, roofs, _share_of_kernels(graph, parts, roofs))
            | {"milliseconds_60_layers": LAYERS * time.median * 1e3, "microseconds_without_graph": eager.median * 1e6}
        )


def batches(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """Several tokens, each with its own eight of 384 experts: bytes count each expert once."""
    for types in (("Q4_K", "Q4_K"), ("Q4_K", "Q6_K")):
        table = slot_table(types, FF, HIDDEN, PLACES, PLACES)
        for tokens in (2, 4, 8):
            chosen = [_choice(tokens, PLACES) for _ in range(12)]
            layers = _with(kernels, table, chosen)
            time = timed(recorded(partial(run_all, layers)).replay).of(len(layers))
            nbytes = sum(len(c.unique()) for c in chosen) * (2 * table.gate_bytes + table.down_bytes) // len(chosen)
            yield {"types": "/".join(types), "tokens": tokens, "used": USED} | _speed(time, nbytes, roofs, {})


def layer(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """Every quantized product of a K2 layer for one token: attention's matrices, eight experts and the shared one.

    What is not a product of weights (norms, the router, attention over the cache) is not in it.
    """
    table = slot_table(("Q4_K", "Q6_K"), FF, HIDDEN, PLACES, PLACES)
    copies = 12
    runs: list[Callable[[], object]] = []
    nbytes = 0
    for number in range(copies):
        for _, name, shape in LAYER:
            block = block_type(name)
            w = CardTensor(block, shape, random_bytes(block, block.nbytes(shape)))
            nbytes += w.nbytes
            x = torch.randn(1, *shape[:-2], shape[-1], device="cuda")
            runs.append(partial(kernels.linear if len(shape) == 2 else kernels.linear_heads, x, w))
        slots = ((torch.arange(USED + 1, device="cuda") + number * USED) % PLACES).int()[None]
        runs += _with(kernels, table, [slots])
        nbytes += (USED + 1) * (2 * table.gate_bytes + table.down_bytes)
    graph = recorded(partial(run_all, runs))
    time = timed(graph.replay).of(copies)
    busy = sum(kernel_seconds(graph.replay).values()) / copies
    yield _speed(time, nbytes // copies, roofs, {}) | {
        "experts": USED + 1,
        "busy_share": busy / time.median,
        "milliseconds_61_layers": 61 * time.median * 1e3,
    }


def layer_calls(kernels: TritonKernels, table: SlotTable, tokens: int) -> list[Callable[[], object]]:
    """Calls with all slots in turn, `USED` to a call."""
    slots = torch.arange(len(table.table), device="cuda", dtype=torch.int32).view(-1, 1, USED)
    return _with(kernels, table, [choice.expand(tokens, USED).contiguous() for choice in slots])


def _with(kernels: TritonKernels, table: SlotTable, choices: list[Tensor]) -> list[Callable[[], object]]:
    calls: list[Callable[[], object]] = []
    for slots in choices:
        x, weights = torch.randn(len(slots), HIDDEN, device="cuda"), torch.rand(slots.shape, device="cuda")
        calls.append(partial(kernels.experts, x, table, slots, weights))
    return calls


def _choice(tokens: int, places: int) -> Tensor:
    return torch.stack([torch.randperm(places, device="cuda")[:USED] for _ in range(tokens)]).int()


def run_all(runs: list[Callable[[], object]]) -> None:
    for run in runs:
        run()


def _speed(time: Timing, nbytes: int, roofs: Figure, more: Figure) -> Figure:
    """Microseconds, and bytes in relation to a copy's."""
    return {
        "microseconds": time.median * 1e6,
        "least": time.least * 1e6,
        "most": time.most * 1e6,
        "bytes": nbytes,
        "bytes_per_s": nbytes / time.median,
        "of_copy": nbytes / time.median / roofs["copy_bytes_per_s"],
    } | more


def _share_of_kernels(graph: torch.cuda.CUDAGraph, parts: dict[str, tuple[str, int]], roofs: Figure) -> Figure:
    """Each kernel's own share of a copy's bandwidth, and how much of the graph's time kernels run at all."""
    whole = timed(graph.replay).median
    seconds = kernel_seconds(graph.replay)
    figures: Figure = {"busy_share": sum(seconds.values()) / whole}
    for name, (kernel, nbytes) in parts.items():
        if kernel in seconds:  # a profiler that sees nothing costs a figure, not the run
            figures[f"{name}_of_copy"] = nbytes / seconds[kernel] / roofs["copy_bytes_per_s"]
    return figures
