"""How fast a placed model decodes and reads a prompt, and what limits it.

Sums over a token's way, no simulation: `offload.simulate` replays the runtime's own decisions on a recorded routing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from offload.hit_curve import HitCurve, nominal, pessimistic
from offload.machine import Machine
from offload.model_bytes import ModelBytes
from offload.placement import Place, Placement
from offload.roofline import Efficiency, LayerTimes, Rates, Shares, layer_times

# How well kernels and drives are expected to do in the good case, and in the bad one.
GOOD = Efficiency()
BAD = Efficiency(card=0.70, ram=0.60, drive=0.80, link=0.70, flops=0.35)
# What goes through in one pass of a prompt where no cards are.
_CHUNK_TOKENS = 4096


@dataclass(frozen=True)
class Speed:
    """Tokens/s, what takes the largest part of the time, and the time of each part in seconds (they overlap)."""

    tokens_per_s: float
    limit: str
    parts: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """The good case (nominal hit curve) and the bad one (pessimistic curve, kernels and drive below par)."""

    good: Speed
    bad: Speed


@dataclass(frozen=True)
class Assumptions:
    """What a prediction stands on: hits by share of experts kept, and how well each place is used."""

    hits: HitCurve
    efficiency: Efficiency


GOOD_CASE, BAD_CASE = Assumptions(nominal, GOOD), Assumptions(pessimistic, BAD)


def predict_decode(machine: Machine, model: ModelBytes, placement: Placement, depth: int) -> Prediction:
    """Tokens one after the other behind `depth` others."""
    cases = [_decode(machine, model, placement, depth, case) for case in (GOOD_CASE, BAD_CASE)]
    return Prediction(*cases)


def predict_prefill(machine: Machine, model: ModelBytes, placement: Placement, tokens: int) -> Prediction:
    """A new prompt of `tokens` tokens."""
    cases = [_prefill(machine, model, placement, tokens, case) for case in (GOOD_CASE, BAD_CASE)]
    return Prediction(*cases)


def tier_shares(model: ModelBytes, placement: Placement, hits: HitCurve) -> Shares:
    """Where a decoded token's expert is found."""
    if not model.expert_count:
        return Shares(0.0, 1.0, 0.0)
    kept = sum(place.expert_count for place in placement.cards) / model.expert_count
    card = hits(kept)
    fast = 1.0 if placement.drive_experts == 0 else hits(1 - placement.drive_experts / model.expert_count)
    return Shares(card, fast - card, 1 - fast)


def _decode(machine: Machine, model: ModelBytes, placement: Placement, depth: int, case: Assumptions) -> Speed:
    efficiency = case.efficiency
    times = _layer_times(machine, model, placement, case)
    overhead_s = len(model.layers) * efficiency.layer_s
    resident_s = fixed_seconds(machine, model, placement, depth, efficiency) - overhead_s
    layers = model.expert_layers
    total_s = resident_s + overhead_s + layers * times.mean_s
    parts = {
        "reading what every token needs": resident_s,
        "calls and waiting": overhead_s,
        "experts on cards": layers * times.card_s,
        "experts in RAM": layers * times.ram_s,
        "reading experts from the drive": layers * times.drive_s,
    }
    return Speed(1 / total_s, max(parts, key=parts.__getitem__), parts)


def _layer_times(machine: Machine, model: ModelBytes, placement: Placement, case: Assumptions) -> LayerTimes:
    if not model.expert_count:
        return LayerTimes(0.0, 0.0, 0.0, 0.0)
    efficiency, drive = case.efficiency, machine.drive_bytes_per_s
    rates = Rates(
        card=_card_rate(machine, placement.cards) * efficiency.card,
        ram=machine.ram_bytes_per_s * efficiency.ram,
        drive=math.inf if drive is None else drive * efficiency.drive,
    )
    shares = tier_shares(model, placement, case.hits)
    return layer_times(shares, model.experts_per_token, model.mean_expert_bytes, rates)


def _card_rate(machine: Machine, places: Sequence[Place]) -> float:
    """The bandwidth that an expert on a card meets: a layer's lie on one card, the mean is over the cards."""
    held = sum(place.expert_count for place in places)
    if not held:
        return math.inf
    times = [place.expert_count / card.read_bytes_per_s for place, card in zip(places, machine.cards, strict=True)]
    return held / sum(times)


def fixed_seconds(
    machine: Machine, model: ModelBytes, placement: Placement, depth: int, efficiency: Efficiency
) -> float:
    """What a token takes besides its experts: reading what every token needs, place after place, with the cache of
    `depth` tokens and its arithmetic, and what every layer loses."""
    layers = len(model.layers)
    seconds = layers * efficiency.layer_s
    for place, card in zip(placement.cards, machine.cards, strict=True):
        share = place.layers / layers
        attention_s = depth * model.pair_flops * share / (card.flops * efficiency.flops)
        nbytes = place.resident_bytes + depth * model.cache_bytes * card.cache_share * share
        seconds += nbytes / (card.read_bytes_per_s * efficiency.card) + attention_s
    share = placement.ram.layers / layers
    attention_s = depth * model.pair_flops * share / (machine.flops * efficiency.flops)
    read = placement.ram.resident_bytes - model.embedding_bytes + depth * model.cache_bytes * share
    return seconds + read / (machine.ram_bytes_per_s * efficiency.ram) + attention_s


def _prefill(machine: Machine, model: ModelBytes, placement: Placement, tokens: int, case: Assumptions) -> Speed:
    chunk = min(tokens, placement.chunk_tokens or _CHUNK_TOKENS)
    parts = _expert_pass(machine, model, placement, chunk, case.efficiency)
    dense_s = _dense_s(machine, model, placement, chunk, case.efficiency)
    total_s = max(parts.values()) + dense_s
    parts["everything but the experts"] = dense_s
    return Speed(chunk / total_s, max(parts, key=parts.__getitem__), parts)


def touched_share(model: ModelBytes, tokens: int) -> float:
    """The share of a layer's experts that a prompt of `tokens` goes to, when it goes to all alike."""
    if not model.expert_count:
        return 0.0
    return 1 - (1 - model.experts_per_token / model.n_experts) ** tokens


def _expert_pass(
    machine: Machine, model: ModelBytes, placement: Placement, tokens: int, efficiency: Efficiency
) -> dict[str, float]:
    """Seconds of each part of streaming all experts that are touched once; the parts overlap."""
    touched = touched_share(model, tokens)
    flops = 2.0 * tokens * model.experts_per_token * model.expert_layers * model.expert_weights
    drive, read = machine.drive_bytes_per_s, touched * placement.drive_expert_bytes
    on_cards = sum(place.expert_bytes for place in placement.cards)
    below = touched * (model.experts_bytes - on_cards)
    links, card_flops = (sum(getattr(card, what) for card in machine.cards) for what in ("link_bytes_per_s", "flops"))
    ram_s = below / (machine.ram_bytes_per_s * efficiency.ram)
    processor = {
        "reading experts from RAM": ram_s + touched * on_cards / (machine.ram_bytes_per_s * efficiency.ram),
        "the processor's arithmetic": flops / (machine.flops * efficiency.flops),
    }
    ways = [processor]
    if machine.cards:
        to_cards = {
            "reading experts from RAM": ram_s,
            "copying experts to the cards": below / (links * efficiency.link),
            "the cards' arithmetic": flops / (card_flops * efficiency.flops),
        }
        ways.append(to_cards)
    best = min(ways, key=lambda way: max(way.values()))
    return best | {"reading experts from the drive": read / (drive * efficiency.drive) if read and drive else 0.0}


def _dense_s(machine: Machine, model: ModelBytes, placement: Placement, tokens: int, efficiency: Efficiency) -> float:
    """Everything but the experts, place after place: arithmetic, and reading the weights once."""
    flops = 2.0 * tokens * model.resident_weights + tokens * tokens / 2 * model.pair_flops
    resident, seconds = model.resident_bytes, 0.0
    held = [place.resident_bytes for place in placement.cards]
    for nbytes, card in zip(held, machine.cards, strict=True):
        read_s = nbytes / (card.read_bytes_per_s * efficiency.card)
        seconds += max(read_s, flops * nbytes / resident / (card.flops * efficiency.flops))
    rest = resident - sum(held)
    read_s = rest / (machine.ram_bytes_per_s * efficiency.ram)
    return seconds + max(read_s, flops * rest / resident / (machine.flops * efficiency.flops))
