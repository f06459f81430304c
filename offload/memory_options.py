"""What a user may say about where experts live."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CardSpec:
    """A card to be used for experts: its kind and how many bytes of it."""

    kind: Literal["virtual"]
    capacity_bytes: int


@dataclass(frozen=True)
class MemoryOptions:
    """Budgets and places. `ram_budget_bytes` None means what is free, less head-room for the system.

    It covers all weights in RAM and the buffers of computation, not the KV cache, which takes its memory beside it:
    `context_tokens` is for how many tokens (None: as many as without --ctx). `mirror` is a second copy of the model's
    file on another drive: the first of its shards, where it has some.
    """

    ram_budget_bytes: int | None = None
    cards: tuple[CardSpec, ...] = ()
    mirror: Path | None = None
    context_tokens: int | None = None
