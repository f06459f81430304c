"""What a card refuses, as errors that a user can do something about."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quant.errors import StoreError


@contextmanager
def card_errors(name: str) -> Iterator[None]:
    """Raises StoreError, with the card's name, for what it cannot do any more in this block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StoreError(
            f"{name} has no memory left to compute in: leave it more (smaller --vram-budget, --ctx or prompt)"
        ) from error
    except torch.AcceleratorError as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{name} has failed ({reason}): start again without it (--devices)") from error
