"""The cards of this machine, or virtual ones: which there are, what they have room for, and the devices of the pool."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from offload.card_errors import card_errors
from offload.cards import card_named, unnamed_card
from offload.dispatch import CardSpeeds
from offload.kernel_card import KernelCard
from offload.machine import CARD_RESERVE, Card
from offload.memory_options import CardSpec
from offload.multiply import Multiplier
from offload.pool_device import PoolDevice, VirtualCard
from offload.slabs import SlabMap
from offload.slots import SlotTable
from quant.errors import RequestError
from quant.kernels.card import CardKernels, make_card_kernels
from quant.kernels.card_floats import CardFloats
from quant.nf4.values import NF4
from quant.types import BlockType

# Compute capability: bfloat16 products, and copies that the kernels' compiler uses.
_OLDEST = (8, 0)

# A virtual card is memory like any other: its link is a copy within RAM.
_VIRTUAL = Card("virtual", 0, read_bytes_per_s=30e9, link_bytes_per_s=10e9, flops=300e9, is_virtual=True)


@dataclass(frozen=True)
class PoolCard:
    """A card of the pool: `slot_bytes` of it are for experts, and `layers` have their home there.

    `kept_bytes` of it are for what is made after the slots: buffers and the cache.
    """

    spec: CardSpec
    slot_bytes: int
    layers: range = range(0)
    kept_bytes: int = 0

    @property
    def name(self) -> str:
        """As a user would call it."""
        return f"{self.spec.kind}:{self.spec.number}"

    @property
    def device(self) -> torch.device:
        """What torch calls it."""
        return torch.device("cpu" if self.spec.kind == "virtual" else self.name)


def present_cards(specs: Sequence[CardSpec], buffer_bytes: int) -> list[CardSpec]:
    """The cards that are meant, each with its number and with as many bytes as are free or were allowed.

    Raises RequestError for cards that are not there, or have no room but for `buffer_bytes`.
    """
    found: list[CardSpec] = []
    for spec in specs:
        found += [spec] if spec.kind == "virtual" else _cuda_cards(spec, buffer_bytes)
    return found


def facts_of(spec: CardSpec) -> Card:
    """A present card as the planner sees it."""
    assert spec.capacity_bytes is not None
    if spec.kind == "virtual":
        return replace(_VIRTUAL, memory_bytes=spec.capacity_bytes)
    try:
        known = card_named(torch.cuda.get_device_name(spec.number))
    except RequestError:
        known = unnamed_card(spec.capacity_bytes)
    return replace(known, memory_bytes=spec.capacity_bytes)


def speeds_of(spec: CardSpec) -> CardSpeeds:
    """What the cost model begins with; what is measured corrects it."""
    card = facts_of(spec)
    return CardSpeeds(card.read_bytes_per_s, card.link_bytes_per_s, card.flops)


def fitted(card: PoolCard) -> tuple[PoolCard, str | None]:
    """A card whose layers lie there, with fewer slots where it has less memory left than was planned for them.

    Somebody else may have begun to use it meanwhile. Then there is a note for the user, too.
    """
    if card.spec.kind == "virtual":
        return card, None
    assert card.spec.number is not None
    with card_errors(card.name):
        free_bytes, _ = torch.cuda.mem_get_info(card.spec.number)
    left = max(0, free_bytes - card.kept_bytes)
    if left >= card.slot_bytes:
        return card, None
    missing = card.slot_bytes - left
    note = f"{card.name} has {missing / 1e9:.2f} GB less than when its experts were planned: it gets fewer of them"
    return replace(card, slot_bytes=left), note


def block_kernels() -> CardKernels:
    """The kernels of real cards, for blocks. Raises UnsupportedError where they cannot be had."""
    return make_card_kernels("triton")


def card_kernels(types: Iterable[BlockType] = ()) -> CardKernels:
    """The same for layers and experts, which may be plain floats too, and NF4 where that is among `types`."""
    kernels = CardFloats(block_kernels())
    if NF4 not in types:
        return kernels
    from quant.kernels.card_nf4 import CardNf4  # takes seconds to load

    return CardNf4(kernels)


def pool_device(card: PoolCard, table: SlotTable, slabs: SlabMap, multiplier: Multiplier) -> PoolDevice:
    """The device behind a card's slots. Raises StoreError, UnsupportedError."""
    return _DEVICES[card.spec.kind](card, table, slabs, multiplier)


def _virtual(card: PoolCard, table: SlotTable, slabs: SlabMap, multiplier: Multiplier) -> PoolDevice:
    return VirtualCard(card.name, table.classes, table.slots, slabs.layers, multiplier)


def _cuda(card: PoolCard, table: SlotTable, slabs: SlabMap, multiplier: Multiplier) -> PoolDevice:
    kernels = card_kernels({part.type for layer in slabs.layers.values() for part in layer.parts})
    return KernelCard(card.name, card.device, table.classes, table.slots, slabs.layers, kernels)


_DEVICES: dict[str, Callable[[PoolCard, SlotTable, SlabMap, Multiplier], PoolDevice]] = {
    "virtual": _virtual,
    "cuda": _cuda,
}


def _cuda_cards(spec: CardSpec, buffer_bytes: int) -> list[CardSpec]:
    if not torch.cuda.is_available():
        why = (
            "this torch was built without CUDA"
            if torch.version.cuda is None
            else "torch finds no CUDA card (CUDA_VISIBLE_DEVICES may hide it)"
        )
        raise RequestError(f"--devices cuda: {why}; see k2lite doctor, or leave it out")
    count = torch.cuda.device_count()
    numbers = list(range(count)) if spec.number is None else [spec.number]
    if spec.number is not None and spec.number >= count:
        raise RequestError(
            f"--devices cuda:{spec.number}: there are {count} cards, 0 to {count - 1} "
            "(CUDA_VISIBLE_DEVICES may hide some)"
        )
    for number in numbers:
        _check_generation(number)
    return [_with_room(spec, number, buffer_bytes) for number in numbers]


def _check_generation(number: int) -> None:
    """Raises RequestError for a card that the kernels are not made for."""
    with card_errors(f"cuda:{number}"):
        generation = torch.cuda.get_device_capability(number)
    if generation < _OLDEST:
        have, need = (".".join(map(str, version)) for version in (generation, _OLDEST))
        raise RequestError(
            f"cuda:{number} has compute capability {have}, but {need} is needed (RTX 30 and newer): "
            "leave the card out (--devices)"
        )


def _with_room(spec: CardSpec, number: int, buffer_bytes: int) -> CardSpec:
    """Somebody else, a desktop for one, may be using a part of the card. Raises RequestError when too much of it."""
    with card_errors(f"cuda:{number}"):
        free_bytes, total_bytes = torch.cuda.mem_get_info(number)
    capacity = free_bytes if spec.capacity_bytes is None else min(spec.capacity_bytes, free_bytes)
    if capacity * (1 - CARD_RESERVE) <= buffer_bytes:
        raise RequestError(
            f"cuda:{number} has {free_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB free and may use "
            f"{capacity / 1e9:.1f}: more than {buffer_bytes / (1 - CARD_RESERVE) / 1e9:.1f} are needed; "
            "end what else uses it, or leave the card out (--devices)"
        )
    return CardSpec("cuda", capacity, number)
