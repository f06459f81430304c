"""A plan as a table for people, and as one object for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes
from offload.placement import Place
from offload.plan import Plan, Step
from offload.plan_trace import Replayed
from offload.predict import Prediction

_MOST_STEPS = 5


def plan_lines(plan: Plan, steps: Sequence[Step], replayed: Replayed | None = None) -> list[str]:
    """What goes where, how fast, and what would help."""
    lines = [*_head_lines(plan), "", *_place_lines(plan)]
    missing = plan.placement.missing_bytes
    if missing:
        lines += ["", f"It cannot run: {format_bytes(missing)} are missing in {plan.placement.missing_where}."]
    if plan.decode is not None and plan.prefill is not None:
        depth, prompt = plan.workload.depth, plan.workload.prompt_tokens
        lines += ["", *_speed_lines("decode", plan.decode, f"behind {depth:,} tokens")]
        lines += _speed_lines("prefill", plan.prefill, f"of {prompt:,} new tokens")
    if replayed is not None:
        lines += _replay_lines(replayed)
    if steps:
        lines += ["", "what would help, one change at a time"]
        lines += [_step_line(step, plan) for step in steps[:_MOST_STEPS]]
    return lines


def plan_record(plan: Plan, steps: Sequence[Step], replayed: Replayed | None = None) -> dict[str, Any]:
    """The same, in bytes and tokens/s."""
    model, placement = plan.model, plan.placement
    machine = asdict(plan.machine)
    return {
        "model": {
            "name": model.name,
            "bytes": model.total_bytes,
            "resident_bytes": model.resident_bytes,
            "experts": model.expert_count,
            "expert_bytes": model.mean_expert_bytes,
            "experts_per_token": model.experts_per_token,
            "routed_bytes_per_token": model.routed_bytes_per_token,
        },
        "machine": machine,
        "workload": asdict(plan.workload),
        "fits": placement.fits,
        "missing_bytes": placement.missing_bytes,
        "missing_where": placement.missing_where,
        "mapped": placement.mapped,
        "places": [asdict(place) | {"free_bytes": place.free_bytes} for place in placement.places],
        "drive_experts": placement.drive_experts,
        "drive_expert_bytes": placement.drive_expert_bytes,
        "chunk_tokens": placement.chunk_tokens,
        "decode": None if plan.decode is None else asdict(plan.decode),
        "prefill": None if plan.prefill is None else asdict(plan.prefill),
        "replay": None if replayed is None else _replay_record(replayed),
        # JSON has no infinity: null where the model cannot run now
        "steps": [asdict(step) | {"gain": step.gain if plan.decode is not None else None} for step in steps],
    }


def _head_lines(plan: Plan) -> list[str]:
    model, machine = plan.model, plan.machine
    lines = [f"{one_line(model.name)}: {format_bytes(model.total_bytes)}"]
    if model.expert_count:
        lines[0] += (
            f", of which {model.expert_count:,} experts of {format_bytes(model.mean_expert_bytes)}; "
            f"{model.experts_per_token} of {model.n_experts} used in each of {model.expert_layers} layers"
        )
    origins = ", ".join(f"{name} {origin}" for name, origin in machine.origins.items())
    lines.append(f"on {machine}")
    if origins:
        lines.append(f"   ({origins})")
    lines.append(f"context of {plan.workload.context_tokens:,} tokens")
    return lines


def _place_lines(plan: Plan) -> list[str]:
    model, placement = plan.model, plan.placement
    lines = [
        f"{'place':8} {'memory':>9} {'reserve':>9} {'weights':>9} {'cache':>9} {'buffers':>9} {'experts':>9}"
        f" {'free':>9}"
    ]
    lines += [_place_line(place, model.expert_count) for place in placement.places]
    chunk = placement.chunk_tokens
    chunk_lines = [] if chunk is None else [f"a prompt goes to the cards in chunks of {chunk:,} tokens"]
    if not model.expert_count:
        return lines + chunk_lines
    if placement.drive_experts:
        share = 100 * placement.drive_experts / model.expert_count
        lines.append(
            f"{'drive':8} {placement.drive_experts:,} experts ({format_bytes(placement.drive_expert_bytes)}, "
            f"{share:.1f} %) are only here, and are read when they are needed"
        )
    if placement.mapped:
        copies = "; cards hold copies of the most used" if placement.cards else ""
        lines.append(f"RAM holds every expert, in the mapped file{copies}")
    elif placement.cards:
        lines.append("an expert is on one card or in RAM, so that their sizes add up")
    return lines + chunk_lines


def _place_line(place: Place, all_experts: int) -> str:
    reserve = place.memory_bytes - place.usable_bytes
    sizes = (
        place.memory_bytes,
        reserve,
        place.resident_bytes,
        place.cache_bytes,
        place.buffer_bytes,
        place.expert_bytes,
        max(0, place.free_bytes),
    )
    share = f" {place.expert_count:,} experts ({100 * place.expert_count / all_experts:.1f} %)" if all_experts else ""
    return f"{place.name:8} " + " ".join(f"{format_bytes(size):>9}" for size in sizes) + share


def _speed_lines(what: str, prediction: Prediction, where: str) -> list[str]:
    good, bad = prediction.good, prediction.bad
    return [
        f"{what:8} {_three(bad.tokens_per_s)} to {_three(good.tokens_per_s)} tokens/s {where}, limited by "
        + (good.limit if good.limit == bad.limit else f"{bad.limit} or {good.limit}")
    ]


def _replay_lines(replayed: Replayed) -> list[str]:
    good, bad = replayed.good, replayed.bad
    shares = ", ".join(f"{tier} {100 * good.share(tier):.1f} %" for tier in good.hits)
    lines = [
        f"replay   {_three(bad.tokens_per_s)} to {_three(good.tokens_per_s)} tokens/s over {replayed.tokens:,} "
        f"recorded tokens, {100 * good.stall_s / good.seconds:.0f} % of the time waiting for the drive",
        f"         experts found on {shares}; {good.promotions:,} copied to cards",
    ]
    if not replayed.same_shape:
        lines.append("         (recorded with a model of another shape: the same shares of its experts were kept)")
    return lines


def _replay_record(replayed: Replayed) -> dict[str, Any]:
    cases = {"good": replayed.good, "bad": replayed.bad}
    return {"same_shape": replayed.same_shape, "tokens": replayed.tokens} | {
        name: {
            "tokens_per_s": found.tokens_per_s,
            "shares": {tier: found.share(tier) for tier in found.hits},
            "bytes": dict(found.nbytes),
            "stall_s": found.stall_s,
            "seconds": found.seconds,
            "promotions": found.promotions,
            "evictions": found.evictions,
        }
        for name, found in cases.items()
    }


def _step_line(step: Step, plan: Plan) -> str:
    speed = f"{_three(step.decode.bad.tokens_per_s)} to {_three(step.decode.good.tokens_per_s)} tokens/s"
    gain = "it runs" if plan.decode is None else f"{step.gain:.2f} times"
    return f"  {step.change:46} {gain:>11}: {speed}"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
