"""The runtime's own decisions on a recorded routing, in virtual time: who would have been where, and how long it took.

The code that runs is that of the runtime: residency, the order of reads and products, promotions, look-ahead. Only the
clock, processor, drive, cards and links are made up (offload.virtual_time). What a token does besides its experts takes
a time that is given.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from offload.dispatch import MachineSpeeds, MeasuredSpeeds, promotions_allowed
from offload.expert_layout import ExpertLayout
from offload.lookahead import RouterGuess
from offload.pool import LINK_SHARE, Pool
from offload.residency import DRIVE, Residency
from offload.scores import decayed_counts
from offload.tally import Tally, TierTally
from offload.tiered import TieredExperts
from offload.tiers import LayerFacts, Tiers
from offload.trace import RoutingTrace
from offload.virtual_drive import VirtualDrive
from offload.virtual_time import SimulatedCard, VirtualClock, VirtualLink, VirtualProcessor, VirtualRam, one_row
from quant.errors import RequestError


@dataclass(frozen=True)
class Workplace:
    """The machine that a trace is replayed on. Budgets in bytes of slots; `ram_bytes` None maps all experts.

    `slot_bytes` is what an expert takes of a budget, `work_bytes` what is read and multiplied: they differ where a
    trace of one model stands for another of the same shares. `layer_s` passes in every layer besides the experts,
    `token_s` once a token, the last `lead_s` of it behind the point where the first layer's experts can be guessed.
    `layer_scale` is how many layers of the model one layer of the trace stands for.
    `homes` are the cards that hold layers, by layer. `cards_are_virtual`: they lie in host memory and are
    multiplied by the CPU, in turn. `warm`: RAM is full from the start, of experts that nobody has asked for, as
    after reading ahead in the background. `decay` of use counts: None takes the runtime's. `guessed_right` is how
    often the look-ahead's guess of an expert is right, None for no look-ahead.
    """

    speeds: MachineSpeeds
    ram_bytes: int | None
    card_bytes: tuple[int, ...]
    slot_bytes: int
    work_bytes: float
    layer_s: float = 0.0
    token_s: float = 0.0
    lead_s: float = 0.0
    layer_scale: float = 1.0
    link_share: float = LINK_SHARE
    homes: Mapping[int, int] = field(default_factory=dict)
    cards_are_virtual: bool = False
    warm: bool = False
    decay: float | None = None
    guessed_right: float | None = None


@dataclass(frozen=True)
class Simulated:
    """What happened while tokens were decoded (a prompt's are not counted). Times in seconds, of virtual time.

    `hits` and `nbytes` by tier: "card 0" and so on, "RAM", "drive". `budget_promotions` is how many the links had time
    for.
    """

    tokens: int
    seconds: float
    hits: Mapping[str, int]
    nbytes: Mapping[str, float]
    stall_s: float
    evictions: int
    promotions: int
    budget_promotions: float
    lookahead_reads: int
    lookahead_used: int
    token_seconds: tuple[float, ...] = field(repr=False, default=())

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed."""
        return self.tokens / self.seconds

    def share(self, tier: str) -> float:
        """The share of all expert uses that `tier` served."""
        return self.hits[tier] / sum(self.hits.values())

    @property
    def hit_rate(self) -> float:
        """The share that the drive did not have to serve."""
        return 1 - self.share("drive")


def simulate(trace: RoutingTrace, workplace: Workplace) -> Simulated:
    """Replay `trace`. Raises RequestError for budgets that hold too little."""
    return _Replay(trace, workplace).run()


class _Replay:
    """One replay."""

    def __init__(self, trace: RoutingTrace, workplace: Workplace) -> None:
        self._trace, self._place, self._clock = trace, workplace, VirtualClock()
        layers, size = range(trace.layers), int(workplace.work_bytes)
        layout = ExpertLayout(
            dict.fromkeys(layers, trace.experts), dict.fromkeys(layers, workplace.slot_bytes), trace.used_per_layer
        )
        try:
            self._residency = Residency(layout, workplace.ram_bytes, workplace.card_bytes, workplace.decay)
        except ValueError as error:
            raise RequestError(str(error)) from error
        facts = dict.fromkeys(layers, LayerFacts(trace.experts, size, size))
        self._guess = _Guess(trace, workplace.guessed_right)
        self._tiers = self._made_tiers(facts)
        routers = {} if workplace.guessed_right is None else self._guess.routers()
        self._experts = TieredExperts(self._tiers, routers)
        self._x, self._weights = one_row(trace.used_per_layer)
        self.budget_promotions = 0.0

    def _made_tiers(self, facts: Mapping[int, LayerFacts]) -> Tiers:
        clock, place, speeds = self._clock, self._place, self._place.speeds
        drive = None
        if place.ram_bytes is not None:
            drive = VirtualDrive(speeds.drive_bytes_per_s, speeds.drive_latency_s)
        ram = VirtualRam(clock, self._residency, drive, place.work_bytes)
        cards = speeds.cards[: len(place.card_bytes)]
        links = [VirtualLink(clock, card, place.work_bytes) for card in cards]
        within = links if place.cards_are_virtual else []
        processor = VirtualProcessor(clock, speeds.cpu_bytes_per_s, place.work_bytes, within)
        host = processor if place.cards_are_virtual else None
        devices = [
            SimulatedCard(f"card {number}", clock, card, place.work_bytes, host) for number, card in enumerate(cards)
        ]
        measured = MeasuredSpeeds(speeds)
        return Tiers(
            layers=facts,
            residency=self._residency,
            ram=ram,
            pool=Pool(devices, self._residency, measured, ram.slot_bytes, links, place.link_share, place.homes),
            multiplier=processor,
            speeds=measured,
            tally=Tally(cards=tuple(TierTally() for _ in cards)),
            clock=clock,
        )

    def run(self) -> Simulated:
        """All tokens behind the prompt, which only leaves its scores."""
        if self._place.warm:
            self._warm_up()
        prompt = self._trace.tokens[: self._trace.prompt_tokens]
        for layer in range(self._trace.layers):
            used = [token[layer] for token in prompt]
            for expert, count in decayed_counts(used, self._residency.scores.decay).items():
                self._residency.use((layer, expert), count)
        times = [self._token(number) for number in range(len(prompt), len(self._trace.tokens))]
        tally, state = self._tiers.tally, self._experts.state()
        hits = {f"card {number}": card.experts for number, card in enumerate(tally.cards)}
        hits |= {"RAM": tally.ram.experts, "drive": tally.drive.experts}
        return Simulated(
            tokens=len(times),
            seconds=sum(times),
            hits=hits,
            nbytes={tier: count * self._place.work_bytes for tier, count in hits.items()},
            stall_s=tally.stall_s * self._place.layer_scale,
            evictions=state.evictions,
            promotions=state.promotions,
            budget_promotions=self.budget_promotions,
            lookahead_reads=state.lookahead_reads,
            lookahead_used=state.lookahead_used,
            token_seconds=tuple(times),
        )

    def _warm_up(self) -> None:
        """Fill RAM with some of every layer."""
        for expert in range(self._trace.experts):
            for layer in range(self._trace.layers):
                key = (layer, expert)
                if self._residency.place(key) == DRIVE:
                    if not self._residency.ram.free_slots(self._residency.class_of(layer)):
                        return
                    self._residency.reserve(key)
                    self._residency.arrived(key)

    def _token(self, number: int) -> float:
        """Seconds of one token."""
        self._guess.token = number
        self._clock.pass_by(self._place.token_s - self._place.lead_s)
        self._experts.announce(-1, self._x)  # from the dense layer in front of the first
        self._clock.pass_by(self._place.lead_s)
        began = self._clock.now
        for layer, experts in enumerate(self._trace.tokens[number]):
            self._clock.pass_by(self._place.layer_s)
            self._experts.announce(layer, self._x)
            self._experts.forward(layer, self._x, torch.tensor([experts]), self._weights)
        seconds = self._clock.now - began
        for card in self._place.speeds.cards[: len(self._place.card_bytes)]:
            link = card.link_bytes_per_s
            share = self._place.link_share
            self.budget_promotions += promotions_allowed(int(self._place.slot_bytes), link, seconds, share)
        return seconds * self._place.layer_scale + self._place.token_s


class _Guess:
    """Routers that know the answer and err as often as real guesses do. `token` is the one under way."""

    def __init__(self, trace: RoutingTrace, right: float | None) -> None:
        self.token = 0
        self._trace, self._right, self._random = trace, right, random.Random(0)

    def routers(self) -> dict[int, RouterGuess]:
        """One for each layer."""
        return {layer: partial(self._of, layer) for layer in range(self._trace.layers)}

    def _of(self, layer: int, stream: Tensor) -> list[int]:
        """The layer's experts, each replaced by some other one as often as guesses are wrong."""
        chosen = list(self._trace.tokens[self.token][layer])
        self._random.shuffle(chosen)
        assert self._right is not None
        draw, others = self._random.random, self._trace.experts
        return [expert if draw() < self._right else self._random.randrange(others) for expert in chosen]
