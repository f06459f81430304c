"""Which card gets which layers: contiguous ranges, so that a token crosses from card to card as seldom as can be.

The division is accelerate's, which keeps layers in order. It is given memory maps that are made here: every card gets
layers, the more the more of it is left, so that all layers find as many slots for their experts on their own card.
accelerate's own maps fill as few cards as the largest part (the head) lets it, and the others would hold experts only.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise


def divide_layers(part_bytes: Sequence[int], card_bytes: Sequence[int]) -> list[range]:
    """A range of parts for each card, in order, some perhaps empty; parts behind the last range belong in RAM.

    `part_bytes` are the layers of a model, and its head behind them, with everything that lies beside them;
    `card_bytes` is what each card has for them. No part is divided. Evenly where that lets all parts on cards, else
    as many as fit.
    """
    if not card_bytes:
        return []
    places = _places(part_bytes, card_bytes)
    ends = [0]
    for card in range(len(card_bytes)):
        held = [part for part, place in enumerate(places) if place == card]
        ends.append(held[-1] + 1 if held else ends[-1])
    return [range(start, end) for start, end in pairwise(ends)]


def _places(part_bytes: Sequence[int], card_bytes: Sequence[int]) -> list[int | None]:
    """For each part the number of its card, None in RAM."""
    import torch
    from accelerate.utils.modeling import infer_auto_device_map

    class Part(torch.nn.Module):
        def __init__(self, nbytes: int) -> None:
            super().__init__()
            weight = torch.empty(nbytes, dtype=torch.uint8, device="meta")
            self.weight = torch.nn.Parameter(weight, requires_grad=False)

    model = torch.nn.Sequential(*(Part(nbytes) for nbytes in part_bytes))
    # On the first card accelerate keeps room for layers that visit it from RAM. Ours stay where they are, so the first
    # one is a card without memory.
    room: dict[int | str, int] = {card: int(nbytes) for card, nbytes in enumerate([0, *card_bytes])}
    room["cpu"] = 2 * sum(part_bytes) + 1
    even: dict[int | str, int] = dict(enumerate([0, *_even_memory(part_bytes, card_bytes)]))
    even["cpu"] = room["cpu"]
    with _without_complaints():
        for memory in (even, room):
            found = infer_auto_device_map(
                model, max_memory=memory, no_split_module_classes=["Part"], clean_result=False
            )
            places = [place - 1 if isinstance(place := found[str(part)], int) else None for part in range(len(found))]
            if None not in places:
                break
    return places


def _even_memory(part_bytes: Sequence[int], card_bytes: Sequence[int]) -> list[int]:
    """Bytes of the parts that each card would get: of the layers a share like its share of the memory that is left for
    experts. The head is on the last card that has room for it, and no layer behind it."""
    *layers, head = part_bytes
    last = max((card for card, room in enumerate(card_bytes) if room >= head), default=len(card_bytes) - 1)
    rooms = [*card_bytes[:last], max(0, card_bytes[last] - head), *[0] * (len(card_bytes) - last - 1)]
    memory, waiting = [], deque(layers)
    for card, room in enumerate(rooms):
        share, taken = sum(waiting) * room / max(1, sum(rooms[card:])), 0
        while waiting and taken + waiting[0] / 2 <= share and taken + waiting[0] <= room:
            taken += waiting.popleft()
        memory.append(taken)
    memory[last] = min(memory[last] + head, card_bytes[last])
    return memory


@contextmanager
def _without_complaints() -> Iterator[None]:
    """accelerate misses cards that are only described."""
    logger = logging.getLogger("accelerate.utils.modeling")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
