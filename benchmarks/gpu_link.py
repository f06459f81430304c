"""The link between RAM and card: its speed, and what experts on their way to the card cost those that are computed."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_decode import FF, HIDDEN, PLACES, USED, layer_calls, run_all
from benchmarks.gpu_timing import recorded, slot_table, timed
from quant.kernels.triton.kernels import TritonKernels

Figure = dict[str, Any]
_BYTES = 256 << 20
_CHUNKS = (1 << 20, 4 << 20, 24_772_608)  # the last: a whole expert of K2


def link(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """Pinned memory to the card and back."""
    host, card = torch.empty(_BYTES, dtype=torch.uint8).pin_memory(), torch.empty(_BYTES, dtype=torch.uint8).cuda()
    for name, target, source in (("to_card", card, host), ("to_host", host, card)):
        time = timed(partial(target.copy_, source, non_blocking=True))
        yield {
            "direction": name,
            "bytes_per_s": _BYTES / time.median,
            "least": _BYTES / time.most,
            "most": _BYTES / time.least,
        }
    small = timed(partial(card[:28672].copy_, host[:28672], non_blocking=True))
    yield {"direction": "to_card", "bytes": 28672, "microseconds": small.median * 1e6}


def promotion(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """A layer's experts while a side stream copies others to the card without a pause, in pieces of several sizes."""
    table = slot_table(("Q4_K", "Q4_K"), FF, HIDDEN, PLACES, PLACES)
    layers = layer_calls(kernels, table, tokens=1)
    graph = recorded(partial(run_all, layers))
    alone = timed(graph.replay).of(len(layers))
    yield {"copies": "none", "microseconds": alone.median * 1e6, "least": alone.least * 1e6, "most": alone.most * 1e6}
    host, card = torch.empty(_BYTES, dtype=torch.uint8).pin_memory(), torch.empty(_BYTES, dtype=torch.uint8).cuda()
    side = torch.cuda.Stream()
    for chunk in _CHUNKS:
        pieces = list(zip(card.split(chunk), host.split(chunk), strict=True))

        times = sorted(_beside(graph, side, pieces) for _ in range(9))
        yield {
            "copies": chunk,
            "microseconds": times[4] / len(layers) * 1e6,
            "slower_by": times[4] / len(layers) / alone.median - 1,
            "used": USED,
        }


def _beside(
    graph: torch.cuda.CUDAGraph, side: torch.cuda.Stream, pieces: list[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Seconds of the graph while the pieces are copied. They take longer than it."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        for target, source in pieces:
            target.copy_(source, non_blocking=True)
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3
