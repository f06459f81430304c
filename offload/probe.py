"""This machine, measured: what the planner's description of another one has to be compared with.

Nothing is kept from one call to the next: a drive is not as fast today as it was yesterday.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from offload.cards import card_named, unnamed_card
from offload.machine import Card, Machine
from offload.probe_cards import CardFacts, probe_cards
from offload.probe_drive import probe_drive
from offload.probe_host import host_memory, probe_arithmetic, probe_ram, usable_cores
from quant.errors import RequestError

MEASURED, GIVEN, ASSUMED = "measured", "given", "assumed"

# Of a described machine: nothing that is sold with much memory has fewer channels than these.
_ASSUMED_RAM_SPEEDS = ((192 << 30, 70e9), (384 << 30, 220e9))
_ASSUMED_SERVER_SPEED = 330e9
_ASSUMED_FLOPS_PER_BYTE = 10  # processors have about so much arithmetic beside their memory


@dataclass(frozen=True)
class Description:
    """What is said of a machine; None is to be found out here. An infinite drive there is not: `has_drive` False
    means that experts have to be in memory.

    `cards` None means those of this machine; `link_bytes_per_s` goes for all cards.
    """

    cards: tuple[Card, ...] | None = None
    ram_bytes: int | None = None
    ram_bytes_per_s: float | None = None
    drive_bytes_per_s: float | None = None
    has_drive: bool = True
    link_bytes_per_s: float | None = None
    flops: float | None = None


def described_machine(said: Description, drive_place: Path, threads: int | None = None) -> Machine:
    """The machine that `said` describes; what it leaves open is measured here, a second or so for each figure.

    Speeds of memory and arithmetic are not measured but assumed when the amount of memory is given: it is another
    machine then. `drive_place` is a file or folder on the drive. Raises K2Error.
    """
    origins: dict[str, str] = {}
    cards = _cards(said, origins)
    elsewhere = said.ram_bytes is not None
    ram_bytes = host_memory().total_bytes if said.ram_bytes is None else said.ram_bytes
    origins["RAM"] = MEASURED if said.ram_bytes is None else GIVEN
    threads = threads or usable_cores()
    ram_speed = said.ram_bytes_per_s
    if ram_speed is None:
        ram_speed = _assumed_speed(ram_bytes) if elsewhere else probe_ram(threads)
    origins["RAM speed"] = _origin(said.ram_bytes_per_s, elsewhere)
    flops, other_speed = said.flops, elsewhere or said.ram_bytes_per_s is not None
    if flops is None:
        flops = ram_speed * _ASSUMED_FLOPS_PER_BYTE if other_speed else probe_arithmetic(threads)
    origins["arithmetic"] = _origin(said.flops, other_speed)
    drive = said.drive_bytes_per_s
    origins["drive"] = GIVEN
    if drive is None and said.has_drive:
        drive, origins["drive"] = probe_drive(drive_place).bytes_per_s, MEASURED
    return Machine(ram_bytes, ram_speed, drive, flops, cards, origins)


def _cards(said: Description, origins: dict[str, str]) -> tuple[Card, ...]:
    origins["cards"] = MEASURED if said.cards is None else GIVEN
    cards = tuple(map(measured_card, probe_cards())) if said.cards is None else said.cards
    if said.link_bytes_per_s is None:
        return cards
    if not cards:
        raise RequestError("a link's speed cannot take effect without a card: say which there are (--gpus 1x24G)")
    return tuple(replace(card, link_bytes_per_s=said.link_bytes_per_s) for card in cards)


def measured_card(facts: CardFacts) -> Card:
    """A card of this machine: sizes and speeds as measured, the arithmetic of its kind as its maker says."""
    try:
        known = card_named(facts.name)
    except RequestError:
        known = unnamed_card(facts.total_bytes)
    return Card(facts.name, facts.total_bytes, facts.read_bytes_per_s, facts.link_bytes_per_s, known.flops)


def _assumed_speed(ram_bytes: int) -> float:
    return next((speed for most, speed in _ASSUMED_RAM_SPEEDS if ram_bytes <= most), _ASSUMED_SERVER_SPEED)


def _origin(given: float | None, elsewhere: bool) -> str:
    return GIVEN if given is not None else ASSUMED if elsewhere else MEASURED
