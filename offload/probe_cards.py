"""What graphics cards this machine has, and how fast they and their links are. Imports torch only when asked."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LINK_BYTES = 64 << 20
_CARD_BYTES = 1 << 30  # what fits a card's cache would be copied faster than its memory can
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
    free, total = torch.cuda.mem_get_info(number)
    host = torch.empty(_LINK_BYTES, dtype=torch.uint8, pin_memory=True)
    with torch.cuda.device(number):
        size = min(_CARD_BYTES, free // 4)
        first, second = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
        target = first[:_LINK_BYTES]
        # A copy inside the card reads every byte and writes it: twice the traffic.
        inside = 2 * size / _copy_seconds(torch, lambda: second.copy_(first), seconds / 2)
        link = len(target) / _copy_seconds(
            torch, lambda: target.copy_(host[: len(target)], non_blocking=True), seconds / 2
        )
    others = (other for other in range(torch.cuda.device_count()) if other != number)
    peers = tuple(other for other in others if torch.cuda.can_device_access_peer(number, other))
    return CardFacts(number, torch.cuda.get_device_name(number), total, free, inside, link, peers)


def _copy_seconds(torch: Any, copy: Callable[[], object], seconds: float) -> float:
    """What a copy takes, the best of several runs that together take about `seconds`."""
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
    return best_s
