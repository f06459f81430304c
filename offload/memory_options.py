"""What a user may say about where a model lives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CardSpec:
    """A card to be used: the `number`-th of its kind (None: all of them), and bytes of it (None: what is free)."""

    kind: Literal["virtual", "cuda"]
    capacity_bytes: int | None
    number: int | None = 0


@dataclass(frozen=True)
class MemoryOptions:
    """Budgets and places. `ram_budget_bytes` None means what is free, less head-room for the system.

    It covers all weights in RAM and the buffers of computation, not the KV cache, which takes its memory beside it, or
    on the cards: `context_tokens` is for how many tokens (None: as many as without --ctx). `mirror` is a second copy of
    the model's file on another drive: the first of its shards, where it has some.
    """

    ram_budget_bytes: int | None = None
    cards: tuple[CardSpec, ...] = ()
    mirror: Path | None = None
    context_tokens: int | None = None
