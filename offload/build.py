"""Putting tiers together: from where experts lie in files and the budgets to the door."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from offload.arena import Arena
from offload.at_hand import AtHand
from offload.card_devices import PoolCard, fitted, pool_device, speeds_of
from offload.card_errors import card_errors
from offload.dispatch import UNKNOWN_MACHINE, MachineSpeeds, MeasuredSpeeds
from offload.drive import Drive
from offload.expert_layout import ExpertLayout
from offload.lookahead import RouterGuess
from offload.mapped_experts import records_of
from offload.memory_watch import MemoryWatch
from offload.mirror import mirror_drive
from offload.multiply import Multiplier
from offload.pool import Pool
from offload.pool_device import PoolDevice
from offload.ram_tier import LayerExperts, MappedTier, PagedTier, RamTier
from offload.reader import DriveReader
from offload.residency import Residency
from offload.slabs import SlabMap
from offload.tally import Tally, TierTally
from offload.tiered import TieredExperts
from offload.tiers import LayerFacts, Tiers
from quant.errors import StoreError
from quant.kernels import Kernels
from quant.kernels.expert_records import ExpertRecords


def layout_of(slabs: SlabMap, used_per_token: int) -> ExpertLayout:
    """Sizes of a model's experts in slots."""
    return ExpertLayout(
        {layer: found.experts for layer, found in slabs.layers.items()},
        {layer: found.slot_bytes for layer, found in slabs.layers.items()},
        used_per_token,
    )


def paged_experts(
    slabs: SlabMap,
    used_per_token: int,
    kernels: Kernels,
    routers: Mapping[int, RouterGuess],
    *,
    slot_budget_bytes: int,
    cards: Sequence[PoolCard] = (),
    mirror: Path | None = None,
    prefill_tokens: int | None = None,
    chunk_bytes: Callable[[int], int] = lambda tokens: 0,
    watch: MemoryWatch | None = None,
    later_notes: Sequence[str] = (),
) -> TieredExperts:
    """Experts that are read from the drive into as many slots as the budget allows. Raises StoreError.

    `chunk_bytes` and `later_notes` as in TieredExperts, and `watch`, without which the system's memory is watched.
    """
    layout = layout_of(slabs, used_per_token)
    if slot_budget_bytes < layout.smallest_budget_bytes:
        raise StoreError(
            f"{slot_budget_bytes} bytes for experts are too few: one of each size takes {layout.smallest_budget_bytes}"
        )
    cards, card_notes = _fitted(cards)
    residency = Residency(layout, slot_budget_bytes, [card.slot_bytes for card in cards])
    with ExitStack() as stack:
        drives = [stack.enter_context(Drive(slabs.paths))]
        if mirror is not None:
            drives.append(stack.enter_context(mirror_drive(drives[0], mirror)))
        arena = Arena(residency.ram.classes, residency.ram.slots)
        reader = stack.enter_context(DriveReader(drives))
        ram = PagedTier(slabs, residency, arena, reader, stack.pop_all())
    notes = (*card_notes, *(note for drive in drives for note in drive.notes))
    records = {
        layer: ExpertRecords(found.experts, [part.type for part in found.parts])
        for layer, found in slabs.layers.items()
    }
    tiers = _tiers(slabs, residency, ram, kernels, cards, records)
    return TieredExperts(
        tiers,
        routers,
        prefill_tokens,
        notes,
        chunk_bytes=chunk_bytes,
        watch=MemoryWatch() if watch is None else watch,
        later_notes=later_notes,
    )


def mapped_experts_with_cards(
    slabs: SlabMap,
    used_per_token: int,
    kernels: Kernels,
    layers: Mapping[int, LayerExperts],
    cards: Sequence[PoolCard],
    prefill_tokens: int | None = None,
    later_notes: Sequence[str] = (),
) -> TieredExperts:
    """Experts that all lie in mapped memory, the hottest of them on cards too.

    `later_notes` as in TieredExperts, and `prefill_tokens` too where experts are sent to cards: once a chunk.
    """
    cards, notes = _fitted(cards)
    residency = Residency(layout_of(slabs, used_per_token), None, [card.slot_bytes for card in cards])
    records = {layer: records_of(found) for layer, found in layers.items()}
    tiers = _tiers(slabs, residency, MappedTier(layers, slabs), kernels, cards, records)
    chunk = prefill_tokens if tiers.pool.sending else None
    return TieredExperts(tiers, {}, chunk, notes, later_notes=later_notes)


def _fitted(cards: Sequence[PoolCard]) -> tuple[list[PoolCard], tuple[str, ...]]:
    """The cards with as many slots as they have room for by now, and what the user should know about it."""
    found = [fitted(card) for card in cards]
    return [card for card, _ in found], tuple(note for _, note in found if note is not None)


def _tiers(
    slabs: SlabMap,
    residency: Residency,
    ram: RamTier,
    kernels: Kernels,
    cards: Sequence[PoolCard],
    records: Mapping[int, ExpertRecords],
) -> Tiers:
    multiplier = Multiplier(kernels)
    speeds = MeasuredSpeeds(_machine(cards))
    devices = [_device(number, card, residency, slabs, multiplier) for number, card in enumerate(cards)]
    pool = Pool(devices, residency, speeds, ram.slot_bytes, homes=_homes(cards))
    records = multiplier.readable(records)
    AtHand(residency, ram, pool, records)
    return Tiers(
        layers={
            layer: LayerFacts(found.experts, found.expert_bytes, found.expert_weights)
            for layer, found in slabs.layers.items()
        },
        residency=residency,
        ram=ram,
        pool=pool,
        multiplier=multiplier,
        speeds=speeds,
        tally=Tally(cards=tuple(TierTally() for _ in cards)),
        records=records,
    )


def _machine(cards: Sequence[PoolCard]) -> MachineSpeeds:
    return replace(UNKNOWN_MACHINE, cards=tuple(speeds_of(card.spec) for card in cards))


def _homes(cards: Sequence[PoolCard]) -> dict[int, int]:
    """The card that has each layer, of those that are on cards."""
    return {layer: number for number, card in enumerate(cards) for layer in card.layers}


def _device(number: int, card: PoolCard, residency: Residency, slabs: SlabMap, multiplier: Multiplier) -> PoolDevice:
    table = residency.cards[number]
    if not any(table.slots) and not card.layers:
        raise StoreError(
            f"card {number} has {card.spec.capacity_bytes} bytes, but one expert of each size takes "
            f"{residency.layout.smallest_budget_bytes}: give it more (--devices, --vram-budget) or leave it out"
        )
    with card_errors(card.name):
        return pool_device(card, table, slabs, multiplier)
