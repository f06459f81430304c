"""What a card refuses, as errors that a user can do something about."""

from types import TracebackType

import torch

from quant.errors import StoreError

# As they call themselves in their messages.
_LIBRARIES = ("CUDA", "CUBLAS", "NVRTC", "cuDNN", "NVML")


# It reads as a function. One with `yield` would take a tenth of what Python takes of a layer.
class card_errors:
    """A block that raises StoreError, with the card's name, for what that cannot do any more."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        """Nothing has happened yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            raise StoreError(
                f"{self._name} has no memory left to compute in: leave it more (smaller --vram-budget, --ctx or prompt)"
            ) from error
        if isinstance(error, RuntimeError) and is_a_cards(error):
            reason = str(error).splitlines()[0]
            raise StoreError(f"{self._name} has failed ({reason}): start again without it (--devices)") from error


def is_a_cards(error: RuntimeError) -> bool:
    """Whether a card, its driver or a library for it has raised this: torch has a class for some of these only."""
    return isinstance(error, torch.AcceleratorError) or any(name in str(error) for name in _LIBRARIES)
