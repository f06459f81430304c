"""A card's experts one after the other, each by two products: for types that no kernel takes many experts of at once.

Who launches a product has to know where its matrix is, so that slots are looked at on the host, and nothing waits for
the card to hear of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.kernels.card import CardKernels, CardTensor


@dataclass(frozen=True, eq=False)
class CardExpert:
    """One expert's matrices in a card's memory: gate above up [2 * ff, hidden], and down [hidden, ff]."""

    gate_up: CardTensor
    down: CardTensor


def experts_one_by_one(
    kernels: CardKernels,
    x: Tensor,
    expert: Callable[[int], CardExpert],
    slots: Tensor,
    weights: Tensor,
    given: Callable[[Tensor], Tensor],
) -> Tensor:
    """See CardKernels.experts, with `slots` and `weights` on the host; `given` has a few values of it on the device.

    `expert` is asked for the matrices of each slot. What is asked of `kernels` is `linear` alone.
    """
    if len(x) == 1:
        here = slots[0] >= 0
        return _of_one_token(kernels, x, [expert(slot) for slot in slots[0, here].tolist()], given(weights[:, here]))
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    weights = given(weights).flatten()
    for slot, places in _places_of_slots(slots, given):
        tokens, found = places // slots.shape[1], expert(slot)
        h = _gated(kernels.linear(x[tokens], found.gate_up))
        part = kernels.linear(h, found.down).mul_(weights[places, None])
        # No token comes twice in one call, so that nothing depends on who adds first.
        total.index_add_(0, tokens, part)
    return total


def _of_one_token(kernels: CardKernels, x: Tensor, experts: Sequence[CardExpert], weights: Tensor) -> Tensor:
    """x [1, hidden], weights [1, k] -> [1, hidden]. What lies between products is done for all experts at once: at one
    token it is the launches that take time."""
    if not experts:
        return torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    h = _gated(torch.cat([kernels.linear(x, found.gate_up) for found in experts]))
    parts = [kernels.linear(row, found.down) for row, found in zip(h.split(1), experts, strict=True)]
    return weights @ torch.cat(parts)


def _gated(gate_up: Tensor) -> Tensor:
    """[n, 2 * ff] -> [n, ff]."""
    gate, up = gate_up.chunk(2, dim=1)
    return silu(gate).mul_(up)


def _places_of_slots(slots: Tensor, given: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Each slot that some token goes to, rising, and where it stands in the flattened `slots` [T, k], on the device."""
    flat = slots.flatten()
    order = flat.argsort(stable=True)
    found, counts = flat[order].unique_consecutive(return_counts=True)
    for slot, places in zip(found.tolist(), given(order).split(counts.tolist()), strict=True):
        if slot >= 0:
            yield slot, places
