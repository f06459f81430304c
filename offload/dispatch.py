"""Which processor multiplies an expert, by what each way costs: a cost model, not a rule of thumb.

An expert on a card is multiplied there. One in RAM is multiplied by the CPU, unless copying it to a card is cheaper
even counting the copy: that is so for many tokens, or beside a slow CPU. One on the drive is read into RAM first. All
figures come from a MachineSpeeds, which begins with what was probed and is corrected by what is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from offload.residency import DRIVE
from offload.slots import ExpertKey

# Of a new measurement, against what is known: high enough to follow a drive that slows down within a second or two.
_NEW_SHARE = 0.1


@dataclass(frozen=True)
class CardSpeeds:
    """A card: how fast it reads its own weights, takes bytes from RAM, and computes; and what one hand-over takes."""

    memory_bytes_per_s: float
    link_bytes_per_s: float
    flops: float
    handover_s: float = 40e-6


@dataclass(frozen=True)
class MachineSpeeds:
    """What a machine can do with an expert's bytes. `flops` count two for each weight and token.

    `cpu_bytes_per_s` is what the CPU kernels reach on weights in RAM, `drive_bytes_per_s` what all drives together
    reach with direct reads at full queue; `drive_latency_s` passes before the first byte of a read.
    """

    cpu_bytes_per_s: float
    drive_bytes_per_s: float
    cpu_flops: float
    drive_latency_s: float = 200e-6
    cards: tuple[CardSpeeds, ...] = ()


# Before anything was probed or measured: a desktop of two memory channels with one drive. Only ratios matter.
UNKNOWN_MACHINE = MachineSpeeds(cpu_bytes_per_s=30e9, drive_bytes_per_s=3e9, cpu_flops=300e9)


class Way(Enum):
    """How an expert is multiplied."""

    CARD = "card"  # where it lies, on a card
    CPU = "cpu"  # where it lies, in RAM
    READ = "read"  # read into RAM, then by the CPU
    COPY = "copy"  # copied to a card, then there
    READ_COPY = "read copy"  # read into RAM, copied to a card, then there


@dataclass(frozen=True)
class ExpertWork:
    """One expert of a layer that `tokens` tokens go to. `place` as in Residency.place."""

    key: ExpertKey
    place: int
    nbytes: int
    weights: int
    tokens: int = 1


@dataclass
class LayerDispatch:
    """What each processor does for one layer. Times are predictions, in seconds."""

    ways: dict[ExpertKey, tuple[Way, int | None]] = field(default_factory=dict)  # with the card's number
    cpu_s: float = 0.0
    drive_s: float = 0.0
    card_s: list[float] = field(default_factory=list)
    link_s: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The whole layer: everything runs at once, and what waits for the drive is multiplied as it arrives."""
        return max([self.cpu_s, self.drive_s, *self.card_s, *self.link_s])


def cpu_seconds(work: ExpertWork, speeds: MachineSpeeds) -> float:
    """Multiplying an expert that lies in RAM: the slower of reading its weights once and the arithmetic."""
    return max(work.nbytes / speeds.cpu_bytes_per_s, 2 * work.weights * work.tokens / speeds.cpu_flops)


def card_seconds(work: ExpertWork, card: CardSpeeds) -> float:
    """Multiplying an expert that lies on a card."""
    return max(work.nbytes / card.memory_bytes_per_s, 2 * work.weights * work.tokens / card.flops)


def read_seconds(nbytes: int, speeds: MachineSpeeds) -> float:
    """Reading bytes from the drive, in a row with others."""
    return nbytes / speeds.drive_bytes_per_s


def copy_seconds(work: ExpertWork, card: CardSpeeds) -> float:
    """Copying an expert from RAM to a card."""
    return work.nbytes / card.link_bytes_per_s


def dispatch(
    works: Sequence[ExpertWork],
    speeds: MachineSpeeds,
    preferred_card: int | None = None,
    copies: bool = True,
) -> LayerDispatch:
    """Give every expert to the processor that brings the end of the layer nearest.

    Cards come first: what lies there is multiplied there. The others, the most expensive first, go to the CPU or, with
    `copies`, over a link to whichever card makes the layer end earliest, `preferred_card` winning a draw.
    """
    result = LayerDispatch(card_s=[0.0] * len(speeds.cards), link_s=[0.0] * len(speeds.cards))
    rest = []
    for work in works:
        if work.place >= 0:
            card = speeds.cards[work.place]
            result.card_s[work.place] += card_seconds(work, card) + card.handover_s * (not result.card_s[work.place])
            result.ways[work.key] = (Way.CARD, work.place)
        else:
            rest.append(work)
    for work in sorted(rest, key=lambda work: -cpu_seconds(work, speeds)):
        if work.place == DRIVE:
            result.drive_s += read_seconds(work.nbytes, speeds) + speeds.drive_latency_s * (not result.drive_s)
        _place_one(work, speeds, result, preferred_card, copies)
    return result


def _place_one(
    work: ExpertWork, speeds: MachineSpeeds, result: LayerDispatch, preferred_card: int | None, copies: bool
) -> None:
    """CPU, or a copy to a card: whichever ends first, given what both have to do already."""
    from_drive = work.place == DRIVE
    best_end, best_card = result.cpu_s + cpu_seconds(work, speeds), None
    if copies:
        for number in sorted(range(len(speeds.cards)), key=lambda n: n != preferred_card):
            card = speeds.cards[number]
            copied = result.link_s[number] + copy_seconds(work, card)
            end = max(copied, result.card_s[number]) + card_seconds(work, card)
            if end < best_end:
                best_end, best_card = end, number
    if best_card is None:
        result.cpu_s = best_end
        result.ways[work.key] = (Way.READ if from_drive else Way.CPU, None)
        return
    card = speeds.cards[best_card]
    result.link_s[best_card] += copy_seconds(work, card)
    result.card_s[best_card] = max(result.link_s[best_card], result.card_s[best_card]) + card_seconds(work, card)
    result.ways[work.key] = (Way.READ_COPY if from_drive else Way.COPY, best_card)


def expected_share(tokens: int, used: int, experts: int) -> float:
    """The share of a layer's experts that some of `tokens` tokens go to, were all equally likely."""
    return 1 - (1 - used / experts) ** tokens


def streaming_tokens(used: int, experts: int, least_share: float = 0.5) -> int:
    """From how many tokens on a prompt is worth streaming: most of a layer is needed, whoever is chosen.

    Then the next layer's experts may be read before its router has spoken: at `least_share` needed, no more than as
    many bytes again are read in vain, and reading goes on while this layer is computed.
    """
    tokens = 1
    while expected_share(tokens, used, experts) < least_share:
        tokens += 1
    return tokens


def promotions_allowed(nbytes: int, link_bytes_per_s: float, period_s: float, share: float) -> float:
    """Experts of `nbytes` that a link can be given in `period_s` seconds, using `share` of its time."""
    return share * period_s * link_bytes_per_s / nbytes


class MeasuredSpeeds:
    """A MachineSpeeds that follows what is measured while it runs. Owned by one thread."""

    def __init__(self, probed: MachineSpeeds) -> None:
        self.speeds = probed

    def cpu(self, nbytes: int, seconds: float) -> None:
        """The CPU multiplied `nbytes` of weights by one token in `seconds`."""
        self.speeds = replace(self.speeds, cpu_bytes_per_s=_moved(self.speeds.cpu_bytes_per_s, nbytes, seconds))

    def arithmetic(self, flops: float, seconds: float) -> None:
        """The CPU did `flops` operations with many tokens in `seconds`."""
        self.speeds = replace(self.speeds, cpu_flops=_moved(self.speeds.cpu_flops, flops, seconds))

    def drive(self, nbytes: int, seconds: float) -> None:
        """The drives delivered `nbytes` in `seconds` during which they always had something to do."""
        self.speeds = replace(self.speeds, drive_bytes_per_s=_moved(self.speeds.drive_bytes_per_s, nbytes, seconds))

    def link(self, card: int, nbytes: int, seconds: float) -> None:
        """A copy of `nbytes` to or from a card took `seconds`."""
        cards = list(self.speeds.cards)
        moved = _moved(cards[card].link_bytes_per_s, nbytes, seconds)
        cards[card] = replace(cards[card], link_bytes_per_s=moved)
        self.speeds = replace(self.speeds, cards=tuple(cards))


def _moved(known: float, amount: float, seconds: float) -> float:
    """A rate between what was known and what was measured. Averaged as time per unit: that is what costs add up in."""
    if amount <= 0 or seconds <= 0:
        return known
    return 1 / ((1 - _NEW_SHARE) / known + _NEW_SHARE * seconds / amount)
