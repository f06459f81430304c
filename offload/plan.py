"""The plan: where a model goes on a machine, how fast it will be, and what would make it faster."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from offload.cards import card_named
from offload.machine import GIB, Machine
from offload.model_bytes import ModelBytes
from offload.placement import Placement, place_model
from offload.predict import Prediction, predict_decode, predict_prefill

_RAM_STEPS_GIB = (16, 32, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096)
_DRIVE_STEPS = (3.5e9, 7e9, 12e9, 17e9, 25e9)
_WORTH_IT = 1.03  # a step that gains less is not named
_SIZES_TRIED = 3
_USUAL_CARD = "RTX4090"
_MOST_DEPTH = 4096


@dataclass(frozen=True)
class Workload:
    """How much context is kept, behind how many tokens decoding is looked at, and how long a prompt is."""

    context_tokens: int
    depth: int
    prompt_tokens: int

    @classmethod
    def of_context(cls, context_tokens: int) -> "Workload":
        """The middle of the context, as far as conversations usually go."""
        depth = min(context_tokens // 2, _MOST_DEPTH)
        return cls(context_tokens, depth, max(1, depth))


@dataclass(frozen=True)
class Step:
    """A change of the machine and what it would bring: `gain` times the speed, infinite where it could not run."""

    change: str
    decode: Prediction
    gain: float


@dataclass(frozen=True)
class Plan:
    """`decode` and `prefill` are None where the model does not fit."""

    machine: Machine
    model: ModelBytes
    workload: Workload
    placement: Placement
    decode: Prediction | None
    prefill: Prediction | None


def make_plan(machine: Machine, model: ModelBytes, workload: Workload) -> Plan:
    """Place `model` and predict its speed. Touches nothing."""
    placement = place_model(machine, model, workload.context_tokens)
    if not placement.fits:
        return Plan(machine, model, workload, placement, None, None)
    decode = predict_decode(machine, model, placement, workload.depth)
    prefill = predict_prefill(machine, model, placement, workload.prompt_tokens)
    return Plan(machine, model, workload, placement, decode, prefill)


def next_steps(plan: Plan) -> list[Step]:
    """What to buy or change, tried one by one; the largest gain in decoding first. `gain` is a factor.

    Of several sizes of one thing a larger one is named only where it does more.
    """
    now = plan.decode.good.tokens_per_s if plan.decode else 0.0
    steps: list[Step] = []
    for sizes in (_more_ram, _faster_ram, _more_cards, _faster_drive):
        best = now
        for change, machine in sizes(plan.machine):
            tried = make_plan(machine, plan.model, plan.workload)
            if tried.decode is not None and tried.decode.good.tokens_per_s >= _WORTH_IT * best:
                best = tried.decode.good.tokens_per_s
                steps.append(Step(change, tried.decode, best / now if now else math.inf))
    return sorted(steps, key=lambda step: -step.decode.good.tokens_per_s)


Change = tuple[str, Machine]


def _more_ram(machine: Machine) -> Iterator[Change]:
    larger = [gib * GIB for gib in _RAM_STEPS_GIB if gib * GIB > 1.1 * machine.ram_bytes]
    for ram_bytes in larger[:_SIZES_TRIED]:
        yield f"RAM of {ram_bytes // GIB} GiB", replace(machine, ram_bytes=ram_bytes)


def _faster_ram(machine: Machine) -> Iterator[Change]:
    speed = 2 * machine.ram_bytes_per_s
    yield f"RAM of {speed / 1e9:.3g} GB/s (twice the channels)", replace(machine, ram_bytes_per_s=speed)


def _more_cards(machine: Machine) -> Iterator[Change]:
    card = machine.cards[-1] if machine.cards else card_named(_USUAL_CARD)
    what = "one more" if machine.cards else "a card:"
    yield f"{what} {card.name}", replace(machine, cards=(*machine.cards, card))


def _faster_drive(machine: Machine) -> Iterator[Change]:
    faster = [rate for rate in _DRIVE_STEPS if rate > 1.1 * (machine.drive_bytes_per_s or 0)]
    for rate in faster[:1]:
        yield f"a drive of {rate / 1e9:.3g} GB/s", replace(machine, drive_bytes_per_s=rate)
