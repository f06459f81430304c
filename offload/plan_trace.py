"""A plan looked at through a recorded routing: instead of a hit curve, the runtime's own decisions."""

from dataclasses import dataclass

from offload.dispatch import CardSpeeds, MachineSpeeds
from offload.plan import Plan
from offload.predict import BAD, GOOD, fixed_seconds
from offload.roofline import Efficiency
from offload.simulate import Simulated, Workplace, simulate
from offload.trace import RoutingTrace
from quant.errors import RequestError


@dataclass(frozen=True)
class Replayed:
    """`trace` decoded on the plan's machine with kernels and drive as good as expected, and below par.

    `same_shape` is False where the recording is of a model with other layers or experts: then shares of experts are the
    plan's, and bytes those of the plan's model.
    """

    same_shape: bool
    tokens: int
    good: Simulated
    bad: Simulated


def replay_plan(plan: Plan, trace: RoutingTrace) -> Replayed:
    """Raises RequestError for a plan that does not fit, and for a recording with more or fewer uses a token."""
    model = plan.model
    if plan.decode is None:
        raise RequestError("a model that does not fit cannot be replayed: see what is missing, without --trace")
    if trace.used_per_layer != model.experts_per_token:
        raise RequestError(
            f"the recording uses {trace.used_per_layer} experts in a layer and {model.name} {model.experts_per_token}: "
            "replay one of a model that uses as many"
        )
    good, bad = (simulate(trace, workplace_of(plan, trace, efficiency)) for efficiency in (GOOD, BAD))
    same = (trace.layers, trace.experts) == (model.expert_layers, model.n_experts)
    return Replayed(same, good.tokens, good, bad)


def workplace_of(plan: Plan, trace: RoutingTrace, efficiency: Efficiency) -> Workplace:
    """The plan's machine, with budgets that hold the same shares of the recording's experts."""
    machine, model, placement = plan.machine, plan.model, plan.placement
    slot_bytes = max(1, model.experts_bytes // (trace.layers * trace.experts))
    cards = tuple(
        CardSpeeds(
            memory_bytes_per_s=card.read_bytes_per_s * efficiency.card,
            link_bytes_per_s=card.link_bytes_per_s * efficiency.link,
            flops=card.flops * efficiency.flops,
        )
        for card in machine.cards
    )
    speeds = MachineSpeeds(
        cpu_bytes_per_s=machine.ram_bytes_per_s * efficiency.ram,
        drive_bytes_per_s=(machine.drive_bytes_per_s or float("inf")) * efficiency.drive,
        cpu_flops=machine.flops * efficiency.flops,
        cards=cards,
    )
    fixed_s = fixed_seconds(machine, model, placement, plan.workload.depth, efficiency)
    return Workplace(
        speeds=speeds,
        ram_bytes=None if placement.mapped else placement.ram.expert_bytes,
        card_bytes=tuple(place.expert_bytes for place in placement.cards),
        slot_bytes=slot_bytes,
        work_bytes=model.mean_expert_bytes,
        layer_s=fixed_s / model.expert_layers,
        layer_scale=model.expert_layers / trace.layers,
        warm=True,
    )
