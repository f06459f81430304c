"""The cards that a user names: virtual:4x256M."""

import re

from k2lite.sizes import format_bytes, parse_size
from offload.memory_options import CardSpec

_VIRTUAL = re.compile(r"virtual:(?:([0-9]{1,3})x)?(.+)")
_MOST_CARDS = 64


def parse_devices(text: str) -> tuple[CardSpec, ...]:
    """The cards of "virtual:NxSIZE", memory of the host that is used like cards. Raises ValueError that reads well."""
    match = _VIRTUAL.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} names no devices: write virtual:NxSIZE, as in virtual:4x256M")
    count, size = int(match.group(1) or 1), parse_size(match.group(2))
    if not 1 <= count <= _MOST_CARDS or size < 1:
        raise ValueError(f"{text!r} must be 1 to {_MOST_CARDS} cards of at least 1 byte")
    return (CardSpec("virtual", size),) * count


def limit_cards(cards: tuple[CardSpec, ...], budget_bytes: int) -> tuple[CardSpec, ...]:
    """The cards with at most `budget_bytes` of each. Raises ValueError when that changes nothing."""
    if all(card.capacity_bytes <= budget_bytes for card in cards):
        largest = max(card.capacity_bytes for card in cards)
        raise ValueError(
            f"a VRAM budget of {format_bytes(budget_bytes)} has no effect on {format_bytes(largest)} cards"
        )
    return tuple(CardSpec(card.kind, min(card.capacity_bytes, budget_bytes)) for card in cards)
