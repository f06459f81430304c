"""The runtime's own decisions on a recorded routing, in virtual time: who would have been where, and how long it took.

Who is where is decided by the runtime's own class; only the clock, the drive and the links are made up. What a token
does besides its experts takes a time that is given.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from offload.dispatch import CardSpeeds, MachineSpeeds, promotions_allowed
from offload.reader import Urgency
from offload.residency import DRIVE, RAM, Demotion, ExpertLayout, Promotion, Residency, decayed_counts
from offload.slots import ExpertKey
from offload.trace import RoutingTrace, TokenRouting
from offload.virtual_drive import VirtualDrive
from quant.errors import RequestError

# Of a link's time, for promotions.
LINK_SHARE = 0.25


@dataclass(frozen=True)
class Workplace:
    """The machine that a trace is replayed on. Budgets in bytes of slots; `ram_bytes` None maps all experts.

    `slot_bytes` is what an expert takes of a budget, `work_bytes` what is read and multiplied: they differ where a
    trace of one model stands for another of the same shares. `layer_s` passes in every layer besides the experts,
    `token_s` once a token. `layer_scale` is how many layers of the model one layer of the trace stands for.
    `cards_are_virtual`: they lie in host memory and are multiplied by the CPU, in turn. `warm`: RAM is full from the
    start, of experts that nobody has asked for, as after reading ahead in the background. `decay` of use counts: None
    takes the runtime's.
    """

    speeds: MachineSpeeds
    ram_bytes: int | None
    card_bytes: tuple[int, ...]
    slot_bytes: int
    work_bytes: float
    layer_s: float = 0.0
    token_s: float = 0.0
    layer_scale: float = 1.0
    link_share: float = LINK_SHARE
    cards_are_virtual: bool = False
    warm: bool = False
    decay: float | None = None


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
    """One replay; the time is `now`."""

    def __init__(self, trace: RoutingTrace, workplace: Workplace) -> None:
        self._trace, self._place = trace, workplace
        layers = range(trace.layers)
        counts, sizes = dict.fromkeys(layers, trace.experts), dict.fromkeys(layers, workplace.slot_bytes)
        layout = ExpertLayout(counts, sizes, trace.used_per_layer)
        try:
            self._residency = Residency(layout, workplace.ram_bytes, workplace.card_bytes, workplace.decay)
        except ValueError as error:
            raise RequestError(str(error)) from error
        speeds = workplace.speeds
        self._drive = VirtualDrive(speeds.drive_bytes_per_s, speeds.drive_latency_s)
        self._cards = speeds.cards[: len(workplace.card_bytes)]
        self._copies = [_Copies(card) for card in self._cards]
        self._allowance = [0.0] * len(self._cards)
        self.now = self.stall_s = self.budget_promotions = 0.0
        self._hits = dict.fromkeys([*(f"card {number}" for number in range(len(self._cards))), "RAM", "drive"], 0)

    def run(self) -> Simulated:
        """All tokens behind the prompt, which only leaves its scores."""
        if self._place.warm:
            self._warm_up()
        prompt = self._trace.tokens[: self._trace.prompt_tokens]
        for layer in range(self._trace.layers):
            used = [token[layer] for token in prompt]
            for expert, count in decayed_counts(used, self._residency.scores.decay).items():
                self._residency.use((layer, expert), count)
        times = [self._token(token) for token in self._trace.tokens[len(prompt) :]]
        return Simulated(
            tokens=len(times),
            seconds=sum(times),
            hits=self._hits,
            nbytes={tier: count * self._place.work_bytes for tier, count in self._hits.items()},
            stall_s=self.stall_s * self._place.layer_scale,
            evictions=self._residency.evictions,
            promotions=self._residency.promotions,
            budget_promotions=self.budget_promotions,
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

    def _token(self, token: TokenRouting) -> float:
        """Seconds of one token."""
        began = self.now
        for layer, experts in enumerate(token):
            self.now += self._place.layer_s
            self._layer([(layer, expert) for expert in experts])
        seconds = self.now - began
        self._residency.advance()
        self._end_token([(layer, expert) for layer, experts in enumerate(token) for expert in experts], seconds)
        return seconds * self._place.layer_scale + self._place.token_s

    def _layer(self, keys: Sequence[ExpertKey]) -> None:
        """As offload.few_tokens: hits at once, and what is read as it arrives."""
        residency = self._residency
        self._collect(self.now)
        here, backlog = [], deque[ExpertKey]()
        for key in keys:
            residency.use(key)
            if residency.place(key) == DRIVE:
                backlog.append(key)
            else:
                residency.pin(key)
                here.append(key)
        awaited = self._demand(backlog)
        self._multiply(here)
        for key in here:
            residency.unpin(key)
        while awaited or backlog:
            before = self.now
            if len(self._drive):
                self.now = max(self.now, self._drive.next_end())
            else:  # slots are held by copies under way
                self.now = max([self.now, *(copies.free_at for copies in self._copies)])
                self._settle()
            self.stall_s += self.now - before
            self._collect(self.now)
            arrived = [key for key in awaited if residency.place(key) != DRIVE]
            self._hits["drive"] += len(arrived)
            self.now += len(arrived) * self._place.work_bytes / self._place.speeds.cpu_bytes_per_s
            awaited -= set(arrived)
            awaited |= self._demand(backlog)

    def _multiply(self, here: Sequence[ExpertKey]) -> None:
        """Hits: every card and the CPU at once, or all in turn where cards are virtual."""
        places = [self._residency.place(key) for key in here]
        cpu_s = places.count(RAM) * self._place.work_bytes / self._place.speeds.cpu_bytes_per_s
        self._hits["RAM"] += places.count(RAM)
        times = [cpu_s]
        for number, card in enumerate(self._cards):
            count = places.count(number)
            self._hits[f"card {number}"] += count
            times.append(count * self._place.work_bytes / card.memory_bytes_per_s + card.handover_s * (count > 0))
        self.now += sum(times) if self._place.cards_are_virtual else max(times)

    def _demand(self, backlog: deque[ExpertKey]) -> set[ExpertKey]:
        """Begin to read those for which there are slots, and take them out of `backlog`."""
        asked = set()
        while backlog:
            key = backlog[0]
            if key in self._drive:
                self._drive.hurry(key, Urgency.DEMAND)
            elif self._residency.reserve(key) is not None:
                self._drive.submit(key, self._place.work_bytes, Urgency.DEMAND, self.now)
            else:
                break
            asked.add(backlog.popleft())
        return asked

    def _collect(self, now: float) -> None:
        for key in self._drive.until(now):
            self._residency.arrived(key)

    def _end_token(self, used: Sequence[ExpertKey], seconds: float) -> None:
        """As offload.pool: settle what was copied, and begin what the links have time for."""
        self._settle()
        for number, copies in enumerate(self._copies):
            link = self._cards[number].link_bytes_per_s
            allowed = promotions_allowed(int(self._place.work_bytes), link, seconds, self._place.link_share)
            self.budget_promotions += allowed
            self._allowance[number] = min(self._allowance[number] + allowed, max(2.0, allowed))
            while self._allowance[number] >= 1:
                home = [key for key in used if self._home(key[0]) == number]
                move = self._residency.promotion([number], home) or self._residency.promotion([number], used)
                if move is None:
                    break
                self._allowance[number] -= 1
                copies.begin(move, self._place.work_bytes, self.now)

    def _home(self, layer: int) -> int:
        return layer * len(self._cards) // self._trace.layers

    def _settle(self) -> None:
        for copies in self._copies:
            for move in copies.until(self.now):
                if self._residency.can_complete(move):
                    self._residency.copied(move)
                else:
                    copies.again(move)


class _Copies:
    """The copies to and from one card, one after the other."""

    def __init__(self, card: CardSpeeds) -> None:
        self.free_at = 0.0
        self._card = card
        self._moves: deque[tuple[float, Promotion | Demotion]] = deque()

    def begin(self, move: Promotion | Demotion, nbytes: float, now: float) -> None:
        """Copy as soon as those before are done."""
        self.free_at = max(self.free_at, now) + nbytes / self._card.link_bytes_per_s
        self._moves.append((self.free_at, move))

    def again(self, move: Promotion | Demotion) -> None:
        """The copy is done, but somebody still uses its source."""
        self._moves.appendleft((0.0, move))

    def until(self, now: float) -> list[Promotion | Demotion]:
        """Copies that are done, which are forgotten here."""
        done = [move for end, move in self._moves if end <= now]
        self._moves = deque((end, move) for end, move in self._moves if end > now)
        return done
