"""The engine on a card: tokens and prompts through whole layers, with graphs and without, experts there and in RAM.

Times are those of a clock on the wall, Python included.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.gpu_slice import Bench, Only, Slice, middle
from benchmarks.gpu_timing import kernel_seconds
from k2lite.recording import CallRecorder, recorder_for
from offload.pool import LINK_SHARE
from offload.residency import RAM
from quant.errors import K2Error
from quant.kernels import Kernels, make_kernels
from quant.kernels.triton.kernels import TritonKernels

Figure = dict[str, Any]
_ALL_LAYERS, _EXPERT_LAYERS = 61, 60
_ROOMY_BYTES = 32 << 30  # of RAM: the experts of one layer of K2 take 9.5 GB


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Experts of a layer: 64 stand for 384 where only eight are used."""

    layers: int = 4
    experts: int = 64
    tokens: int = 32
    depths: tuple[int, ...] = (1000, 8000)
    prompt_layers: int = 3
    prompt_experts: int = 384
    prompts: tuple[int, ...] = (4096, 16384)


def engine(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """All that follows, on the first card."""
    host, name = _host_kernels()
    bench = Bench(torch.device("cuda:0"), kernels, host)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sizes = Sizes() if memory > _ROOMY_BYTES else Sizes(prompt_experts=96)
    for figure in figures(bench, sizes, roofs):
        yield figure | ({"cpu_kernels": name} if figure["part"] in ("half", "promotion") else {})
    host.close()


def figures(bench: Bench, sizes: Sizes, roofs: Figure) -> Iterator[Figure]:
    """Each with its `part`."""
    for part in (decode, half, prompt):
        for figure in part(bench, sizes, roofs):
            yield {"part": part.__name__} | figure
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def decode(bench: Bench, sizes: Sizes, roofs: Figure) -> Iterator[Figure]:
    """One token with every expert on the card, its layers recorded as graphs or called."""
    for name, recorder in (("graphs", recorder_for(bench.device)), ("calls", CallRecorder())):
        part = Slice(bench, recorder, sizes.layers, sizes.experts, sizes.layers * sizes.experts)
        part.put_on_card((layer, expert) for layer in range(sizes.layers) for expert in range(sizes.experts))
        part.promote(0.0)
        for depth in sizes.depths:
            cache = part.cache(depth, 4 * sizes.tokens)
            seconds = [token / sizes.layers for token in part.token_seconds(cache, sizes.tokens)]
            yield (
                {"as": name, "depth": depth, "layers": sizes.layers}
                | middle(seconds)
                | {"milliseconds_61_layers": median(seconds) * _ALL_LAYERS * 1e3}
                | _busy(part, depth, sizes, median(seconds))
            )
        part.close()


def _busy(part: Slice, depth: int, sizes: Sizes, layer_s: float) -> Figure:
    """How much of a layer's time kernels run; the rest are gaps between them."""
    if part.bench.device.type != "cuda":
        return {}
    cache, tokens = part.cache(depth, sizes.tokens + 8), 8
    part.token_seconds(cache, 1)
    busy = sum(kernel_seconds(lambda: part.token_seconds(cache, tokens)).values()) / (tokens + 3) / sizes.layers
    return {"busy_share": busy / layer_s}


def half(bench: Bench, sizes: Sizes, roofs: Figure) -> Iterator[Figure]:
    """Every second expert in RAM: both processors at once beside each alone, then promotions off and on."""
    part = Slice(bench, recorder_for(bench.device), sizes.layers, sizes.experts, sizes.layers * sizes.experts // 2)
    part.put_on_card((layer, expert) for layer in range(sizes.layers) for expert in range(0, sizes.experts, 2))
    part.promote(0.0)
    cache = part.cache(sizes.depths[0], 8 * sizes.tokens + 32)
    alone = {}
    for name, is_wanted in (("card", lambda place: place != RAM), ("processor", lambda place: place == RAM)):
        alone[name] = median(part.token_seconds(cache, sizes.tokens, Only(part.door, is_wanted))) / sizes.layers
    both = [token / sizes.layers for token in part.token_seconds(cache, sizes.tokens)]
    yield (
        middle(both)
        | {f"{name}_milliseconds": seconds * 1e3 for name, seconds in alone.items()}
        | {"over_the_slower": median(both) / max(alone.values()) - 1}
    )
    for share in (0.0, LINK_SHARE):
        part.promote(share)
        before = part.tiers.residency.promotions
        seconds = [token / sizes.layers for token in part.token_seconds(cache, 2 * sizes.tokens)]
        part.door.settle()
        promotions = part.tiers.residency.promotions - before
        yield {"link_share": share, "promotions": promotions, "tokens": len(seconds)} | middle(seconds)
    part.close()


def prompt(bench: Bench, sizes: Sizes, roofs: Figure) -> Iterator[Figure]:
    """A chunk of a prompt whose experts all come over the link; the next layer's ahead of it, or not."""
    slots = sizes.prompt_layers * 32
    part = Slice(bench, recorder_for(bench.device), sizes.prompt_layers, sizes.prompt_experts, slots)
    part.promote(0.0)
    part.send_everything()
    for tokens in sizes.prompts:
        x = torch.randn(tokens, part.config.hidden_size).to(bench.device)
        for ahead in (True, False):
            if not ahead:
                part.door._many._ahead.begin = lambda layer, tokens: None  # type: ignore[method-assign]
            seconds = []
            for _ in range(2):  # the first compiles
                sent = part.tiers.tally.cards[0].nbytes
                cache = part.cache(0, tokens)
                bench.wait()
                started = perf_counter()
                part.forward(x, cache)
                bench.wait()
                seconds.append(perf_counter() - started)
                sent = part.tiers.tally.cards[0].nbytes - sent
            layer_s = seconds[-1] / sizes.prompt_layers
            flop = 2 * tokens * part.config.experts_per_token * part.tiers.layers[0].expert_weights
            yield {
                "tokens": tokens,
                "experts": sizes.prompt_experts,
                "ahead": ahead,
                "milliseconds": layer_s * 1e3,
                "tokens_per_s_60_layers": tokens / layer_s / _EXPERT_LAYERS,
                "bytes": sent // sizes.prompt_layers,
                "of_link": sent / seconds[-1] / roofs["link_bytes_per_s"],
                "of_matmul": flop / layer_s / roofs["matmul_flop_per_s"],
            }
            vars(part.door._many._ahead).pop("begin", None)
    part.close()


def _host_kernels() -> tuple[Kernels, str]:
    """The processor's: native code where it was built, else something slow, and its name."""
    threads = len(os.sched_getaffinity(0))
    try:
        return make_kernels("native", threads), f"native, {threads} threads"
    except K2Error:
        return make_kernels("reference", threads), "reference (no native code here): far slower than k2lite is"
