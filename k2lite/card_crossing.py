"""A chunk between a card and the host, in parts of tokens: what the experts need on its way there, their sum on its way
back."""

from typing import Protocol

import torch
from torch import Tensor

from k2lite.card_parts import PART_TOKENS
from k2lite.router import Routing


class Choose(Protocol):
    """A router on a card."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Routing]:
        """norm(`x` [T, hidden] f32) and where that goes."""


class ChunkCrossing:
    """Norm and routing of a chunk x [T, hidden], for `used` experts each, made and on their way to the host."""

    def __init__(self, x: Tensor, router: Choose, used: int) -> None:
        self._used, self._done = used, None
        self._rows = torch.empty(len(x), x.shape[1] + 2 * used, pin_memory=x.is_cuda)
        for part, rows in zip(x.split(PART_TOKENS), self._rows.split(PART_TOKENS), strict=True):
            h, routing = router(part)
            # Experts' numbers are far below 2^24, up to which floats are exact.
            packed = torch.cat([h, routing.weights, routing.ids.float()], dim=1)
            rows.copy_(packed, non_blocking=True)
        if x.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(x.device))

    def arrived(self) -> tuple[Tensor, Tensor, Tensor]:
        """Waits; then norm [T, hidden], ids int64 and weights [T, used], on the host."""
        if self._done is not None:
            self._done.synchronize()
        hidden = self._rows.shape[1] - 2 * self._used
        h, weights, ids = self._rows.split([hidden, self._used, self._used], dim=1)
        return h.contiguous(), ids.to(torch.int64), weights.contiguous()


def add_in_parts(x: Tensor, found: Tensor) -> None:
    """Adds a sum [T, hidden] of the host to x [T, hidden] on a card."""
    for part, added in zip(x.split(PART_TOKENS), found.split(PART_TOKENS), strict=True):
        part.add_(added.to(x.device, non_blocking=True))
