"""What graphics cards this machine has, and how fast they and their links are. Imports torch only when asked."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_COPY_BYTES = 64 << 20
_PASSES = 3


@dataclass(frozen=True)
class CardFacts:
    """A card of this machine. Speeds in bytes/s: its own memory read, and copies to it from pinned memory.

    `peers` are the numbers of the cards whose memory it can reach without the host.
    """

    number: int
    name: str
    total_bytes: int
    free_bytes: int
    read_bytes_per_s: float
    link_bytes_per_s: float
    peers: tuple[int, ...] = ()


def probe_cards(seconds: float = 0.5) -> list[CardFacts]:
    """All cards that torch sees through CUDA, each measured for about `seconds`; none where there is no CUDA."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [_measured(torch, number, seconds) for number in range(torch.cuda.device_count())]


def _measured(torch: Any, number: int, seconds: float) -> CardFacts:
    count = torch.cuda.device_count()
    free, total = torch.cuda.mem_get_info(number)
    host = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    with torch.cuda.device(number):
        first, second = (torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
        # A copy inside the card reads every byte and writes it: twice the traffic.
        copied = _rate(torch, lambda: second.copy_(first), seconds / 2)
        link = _rate(torch, lambda: first.copy_(host, non_blocking=True), seconds / 2)
    peers = tuple(
        other for other in range(count) if other != number and torch.cuda.can_device_access_peer(number, other)
    )
    return CardFacts(number, torch.cuda.get_device_name(number), total, free, 2 * copied, link, peers)


def _rate(torch: Any, copy: Callable[[], object], seconds: float) -> float:
    """Bytes/s of a copy of `_COPY_BYTES`, the best of several runs that together take about `seconds`."""
    copy()
    torch.cuda.synchronize()
    best_s, end = float("inf"), time.perf_counter() + seconds
    for _ in range(_PASSES):
        started, copies = time.perf_counter(), 0
        while copies == 0 or time.perf_counter() < min(end, started + seconds / _PASSES):
            copy()
            copies += 1
            torch.cuda.synchronize()
        best_s = min(best_s, (time.perf_counter() - started) / copies)
    return _COPY_BYTES / best_s
