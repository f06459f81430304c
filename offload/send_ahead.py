"""Experts of the next layer, sent to the cards before its router has spoken: in a long prompt all of them are wanted.

Only who is in RAM now, and would be sent by the cost model were the tokens to go to all experts alike. So the links
have work while a layer does what is not experts. During a very long prompt the cards lend some of their slots for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from offload.dispatch import ExpertWork, Way, dispatch, streaming_tokens
from offload.residency import RAM
from offload.slots import ExpertKey
from offload.tiers import Tiers

# An expert that comes ahead is wanted with this likelihood: K2's from 143 tokens on.
_LIKELIHOOD = 0.95
# From so many tokens on, what the cards' coldest experts will cost to get back is little beside the prompt.
_LENDING_TOKENS = 1024
# Of RAM's slots of a size, those whose experts may be held for a copy ahead: reads of this layer need the others.
_HELD_SHARE = 1 / 8


class SendAhead:
    """What is on its way, or there. Owned by the thread that computes."""

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers
        used = tiers.residency.layout.used_per_token
        self._next = dict(pairwise(sorted(tiers.layers)))
        # From how many tokens on the layer behind each is sent ahead.
        self._least = {
            layer: streaming_tokens(used, tiers.layers[following].experts, _LIKELIHOOD)
            for layer, following in self._next.items()
        }
        self._asked: dict[ExpertKey, int] = {}  # whom, and to which card; they are held

    def prepare(self, tokens: int) -> None:
        """A pass with so many tokens begins: what an earlier one left behind is given up, slots are lent or come
        back."""
        self.cancel()
        pool = self._tiers.pool
        if tokens >= _LENDING_TOKENS and any(self._is_worth_it(layer, tokens) for layer in self._next):
            pool.lend_slots()
        else:
            pool.take_slots_back()

    def begin(self, layer: int, tokens: int) -> None:
        """While `layer` is multiplied with so many tokens: send for the next one, as far as there are places."""
        tiers, following = self._tiers, self._next.get(layer)
        if following is None or not self._is_worth_it(layer, tokens):
            return
        wanted = self._wanted(following, tokens)
        left = int(tiers.residency.ram.slots[tiers.residency.class_of(following)] * _HELD_SHARE)
        for card, sending in enumerate(tiers.pool.sending):
            keys = wanted.get(card, [])[: min(left, sending.places_ahead(following))]
            left -= len(keys)
            for key in keys:
                tiers.hold(key)
                self._asked[key] = card
            if keys:
                sending.send_ahead([(key, tiers.ram.content(key)) for key in keys])

    def collect(self) -> dict[ExpertKey, int]:
        """Send no more; who is there, and on which card. Whoever was asked for is held until `release`."""
        there = {}
        for card in set(self._asked.values()):
            there.update(dict.fromkeys(self._tiers.pool.sending[card].end_ahead(), card))
        return there

    def release(self, used: Iterable[int]) -> None:
        """Who is there will be multiplied by cards that are `used`; all others are given up."""
        for card in set(self._asked.values()) - set(used):
            self._tiers.pool.sending[card].give_up()
        self._tiers.release(self._asked)
        self._asked = {}

    def cancel(self) -> bool:
        """Give up whatever is on its way or there. Whether there was anything."""
        if not self._asked:
            return False
        self.release(())
        return True

    def _is_worth_it(self, layer: int, tokens: int) -> bool:
        """Whether practically all experts of the layer behind `layer` will be wanted, and may be sent."""
        least = self._least.get(layer)
        return least is not None and bool(self._tiers.pool.sending) and tokens >= least

    def _wanted(self, layer: int, tokens: int) -> Mapping[int, Sequence[ExpertKey]]:
        """Experts of a layer in RAM that would be sent if each had its part of the tokens, by card, in rising order."""
        tiers, facts = self._tiers, self._tiers.layers[layer]
        each = max(1, tokens * tiers.residency.layout.used_per_token // facts.experts)
        keys = [(layer, expert) for expert in range(facts.experts)]
        works = [
            ExpertWork(key, tiers.residency.place(key), facts.expert_bytes, facts.expert_weights, each) for key in keys
        ]
        ways = dispatch(works, tiers.speeds.speeds, tiers.pool.home(layer)).ways
        wanted: dict[int, list[ExpertKey]] = {}
        for work in works:
            way, card = ways[work.key]
            if way is Way.COPY and card is not None and work.place == RAM:
                wanted.setdefault(card, []).append(work.key)
        return wanted
