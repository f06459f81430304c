"""The time of one decoded token, from how fast each place is read and how often it is asked.

Cards, processor and drive work at once, so a layer takes as long as the slowest of them. That is not linear in the
number of misses: one read of two milliseconds in a layer whose hits take a quarter of one stalls it even where it
happens seldom. So the times of all outcomes are averaged, and not the outcomes.
"""

import math
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Efficiency:
    """The share of a place's bandwidth that work on it reaches. A card's is what its kernels reach on long rows.

    `layer_s` is lost in every layer on calls and on waiting for each other.
    """

    card: float = 0.80
    ram: float = 0.80
    drive: float = 0.90
    link: float = 0.90
    flops: float = 0.60
    layer_s: float = 100e-6


@dataclass(frozen=True)
class Rates:
    """Bytes/s: how fast experts are multiplied on a card and in RAM, and read from the drive. Infinite for no place."""

    card: float
    ram: float
    drive: float


@dataclass(frozen=True)
class Shares:
    """Where a token's expert is found: probabilities that add up to 1."""

    card: float
    ram: float
    drive: float

    def __post_init__(self) -> None:
        if min(self.card, self.ram, self.drive) < -1e-9 or not math.isclose(self.card + self.ram + self.drive, 1):
            raise ValueError(f"{self} is no distribution")


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of a layer's experts: the mean, and what each place would take without the others."""

    mean_s: float
    card_s: float
    ram_s: float
    drive_s: float


def layer_times(shares: Shares, picks: int, expert_bytes: float, rates: Rates) -> LayerTimes:
    """The times of a layer of which a token uses `picks` experts, each found independently of the others."""
    mean_s = 0.0
    for card in range(picks + 1):
        for drive in range(picks - card + 1):
            ram = picks - card - drive
            likelihood = _ways(picks, card, drive) * shares.card**card * shares.ram**ram * shares.drive**drive
            if likelihood > 0:
                mean_s += likelihood * outcome_s(card, ram, drive, expert_bytes, rates)
    return LayerTimes(
        mean_s=mean_s,
        card_s=picks * shares.card * expert_bytes / rates.card,
        ram_s=picks * (shares.ram + shares.drive) * expert_bytes / rates.ram,
        drive_s=picks * shares.drive * expert_bytes / rates.drive,
    )


def outcome_s(card: int, ram: int, drive: int, expert_bytes: float, rates: Rates) -> float:
    """A layer with so many experts in each place: hits first, and what is read is multiplied as it arrives."""
    multiply_s = expert_bytes / rates.ram
    processor_s = (ram + drive) * multiply_s
    if drive:  # the last one to arrive is still to be multiplied
        processor_s = max(processor_s, drive * expert_bytes / rates.drive + multiply_s)
    return max(card * expert_bytes / rates.card, processor_s)


@cache
def _ways(picks: int, card: int, drive: int) -> int:
    return math.comb(picks, card) * math.comb(picks - card, drive)
