"""Where a layer's weights lie and are multiplied: RAM, or the memory of a card."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from offload.card_errors import card_errors

_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Home:
    """A memory and who computes in it. Virtual cards are homes too, on the host's device.

    `is_card` says that a card's kernels do it, whatever the device; `cache_type` is how the cache beside its layers
    keeps numbers.
    """

    name: str
    device: torch.device = _HOST
    is_card: bool = False
    cache_type: torch.dtype = torch.float32

    def receive(self, x: Tensor) -> Tensor:
        """A copy of `x` here, from wherever it is: between cards that cannot reach each other, by way of the host."""
        with self.active():
            return x.clone() if x.device == self.device else x.to(self.device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Kernels that are called in this block run here. Raises StoreError for what the card cannot do any more."""
        with card_errors(self.name):
            if self.device.type == "cuda":
                with torch.cuda.device(self.device):
                    yield
            else:
                yield


RAM = Home("RAM")
