"""The cards that a user names: cuda, cuda:0,2 or virtual:4x256M."""

import re
from dataclasses import replace

from k2lite.sizes import format_bytes, parse_size
from offload.memory_options import CardSpec

_VIRTUAL = re.compile(r"virtual:(?:([0-9]{1,3})x)?(.+)")
_CUDA = re.compile(r"cuda(?::((?:[0-9]{1,2},)*[0-9]{1,2}))?")
_MOST_CARDS = 64


def parse_devices(text: str) -> tuple[CardSpec, ...]:
    """The cards of "cuda" (all), "cuda:0,2", or "virtual:NxSIZE", memory of the host that is used like cards.

    Raises ValueError that reads well.
    """
    cuda = _CUDA.fullmatch(text.strip())
    if cuda is not None:
        return _cuda(text, cuda.group(1))
    match = _VIRTUAL.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} names no devices: write cuda, cuda:0,1 or virtual:NxSIZE, as in virtual:4x256M")
    count, size = int(match.group(1) or 1), parse_size(match.group(2))
    if not 1 <= count <= _MOST_CARDS or size < 1:
        raise ValueError(f"{text!r} must be 1 to {_MOST_CARDS} cards of at least 1 byte")
    return tuple(CardSpec("virtual", size, number) for number in range(count))


def _cuda(text: str, numbers: str | None) -> tuple[CardSpec, ...]:
    if numbers is None:
        return (CardSpec("cuda", None, None),)
    named = [int(number) for number in numbers.split(",")]
    if len(set(named)) < len(named):
        raise ValueError(f"{text!r} names a card twice")
    return tuple(CardSpec("cuda", None, number) for number in named)


def limit_cards(cards: tuple[CardSpec, ...], budget_bytes: int) -> tuple[CardSpec, ...]:
    """The cards with at most `budget_bytes` of each. Raises ValueError when that changes nothing."""
    known = [card.capacity_bytes for card in cards if card.capacity_bytes is not None]
    if len(known) == len(cards) and max(known) <= budget_bytes:
        raise ValueError(
            f"a VRAM budget of {format_bytes(budget_bytes)} has no effect on {format_bytes(max(known))} cards"
        )
    limits = (budget_bytes if card.capacity_bytes is None else card.capacity_bytes for card in cards)
    return tuple(
        replace(card, capacity_bytes=min(limit, budget_bytes)) for card, limit in zip(cards, limits, strict=True)
    )
