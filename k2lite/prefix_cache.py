"""A KV cache together with the ids it was filled with, so that the next prompt pays only for what is new."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from k2lite.model import Model


class PrefixCache:
    """One conversation's cache: `capacity` positions, filled in order. Not safe to use from two threads at once."""

    def __init__(self, model: "Model", capacity: int) -> None:
        self.capacity = capacity
        self._model = model
        self._cache = model.new_cache(capacity)
        self._ids: list[int] = []

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what `prompt` begins with and forget the rest; returns how many tokens need not be computed again.

        The prompt's last token is always left over: its logits are what the answer starts from.
        """
        kept = common_prefix(self._ids, prompt[:-1])
        del self._ids[kept:]
        self._cache.truncate(kept)
        return kept

    def append(self, ids: Sequence[int]) -> Tensor:
        """Compute `ids` after what is cached; returns the logits behind the last one, f32 [vocab]."""
        logits = self._model.forward(torch.tensor(ids, dtype=torch.int64), self._cache, last_only=True)
        self._ids.extend(ids)
        return logits[-1]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many entries both begin with."""
    length = min(len(left), len(right))
    return next((index for index in range(length) if left[index] != right[index]), length)
