"""What a card refuses, as errors that a user can do something about."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quant.errors import StoreError

# As they call themselves in their messages.
_LIBRARIES = ("CUDA", "CUBLAS", "NVRTC", "cuDNN", "NVML")


@contextmanager
def card_errors(name: str) -> Iterator[None]:
    """Raises StoreError, with the card's name, for what it cannot do any more in this block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StoreError(
            f"{name} has no memory left to compute in: leave it more (smaller --vram-budget, --ctx or prompt)"
        ) from error
    except RuntimeError as error:
        if not is_a_cards(error):
            raise
        reason = str(error).splitlines()[0]
        raise StoreError(f"{name} has failed ({reason}): start again without it (--devices)") from error


def is_a_cards(error: RuntimeError) -> bool:
    """Whether a card, its driver or a library for it has raised this: torch has a class for some of these only."""
    return isinstance(error, torch.AcceleratorError) or any(name in str(error) for name in _LIBRARIES)
