"""A plan, as `k2lite plan --json` prints it, as lines with bars."""

from collections.abc import Iterator, Mapping
from typing import Any

from textual.content import Content

from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes
from tui.errors import SettingsError

Record = Mapping[str, Any]

# What takes room in a place, the sign it is drawn with, and its colour: readable without colours too.
_PARTS = (
    ("resident_bytes", "█", "$text-primary", "weights"),
    ("cache_bytes", "▓", "$text-secondary", "context"),
    ("buffer_bytes", "▒", "$text-warning", "buffers"),
    ("expert_bytes", "▚", "$text-success", "experts"),
)
_MOST_STEPS = 5


def plan_lines(plan: Record, width: int) -> list[Content]:
    """The whole picture, `width` characters wide. Raises SettingsError for a plan of a form that is not known."""
    try:
        return list(_lines(plan, width))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SettingsError(
            f"the plan has a form that this screen does not know ({type(error).__name__} {error})"
        ) from error


def _lines(plan: Record, width: int) -> Iterator[Content]:
    model, machine = plan["model"], plan["machine"]
    head = f"{one_line(str(model['name']))}: {format_bytes(model['bytes'])}"
    if model["experts"]:
        head += f", of which {model['experts']:,} experts of {format_bytes(model['expert_bytes'])}"
    yield Content.styled(head, "bold")
    yield Content(f"on {_machine(machine)}")
    yield Content(f"context of {plan['workload']['context_tokens']:,} tokens")
    yield Content()
    yield from _places(plan, width)
    yield Content()
    yield from _speeds(plan)
    yield from _steps(plan, width)


def _machine(machine: Record) -> str:
    cards = machine.get("cards") or []
    names = [one_line(str(card.get("name", "card"))) for card in cards]
    counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "no card"
    drive = machine.get("drive_bytes_per_s")
    said = f"{counted}; {format_bytes(machine['ram_bytes'])} RAM at {machine['ram_bytes_per_s'] / 1e9:.1f} GB/s"
    return said + (f"; drive {drive / 1e9:.2f} GB/s" if drive else "; no drive")


def _places(plan: Record, width: int) -> Iterator[Content]:
    bar_width = max(10, width - 34)
    experts = plan["model"]["experts"]
    for place in plan["places"]:
        share = f"{100 * place['expert_count'] / experts:.1f} % of experts" if experts else ""
        used = place["memory_bytes"] - max(0, place["free_bytes"])
        sizes = f"{format_bytes(used)} / {format_bytes(place['memory_bytes'])}"
        yield Content.assemble(f"{one_line(str(place['name'])):8}", _bar(place, bar_width), f" {share}")
        yield Content.styled(f"{'':8}{sizes}, {format_bytes(max(0, place['free_bytes']))} free", "dim")
    if plan.get("drive_experts"):
        share = 100 * plan["drive_experts"] / experts
        yield Content(
            f"{'drive':8}{plan['drive_experts']:,} experts ({format_bytes(plan['drive_expert_bytes'])}, {share:.1f} %) "
            "are read when they are needed"
        )
    if plan.get("mapped"):
        yield Content("RAM holds every expert, in the mapped file")
    legend = [part for _, sign, colour, name in _PARTS for part in ((sign, colour), f" {name}  ")]
    yield Content.assemble(" " * 8, *legend, ("▁", "dim"), " reserve  ", ("·", "dim"), " free")


def _bar(place: Record, width: int) -> Content:
    memory = max(1, place["memory_bytes"])
    pieces: list[tuple[str, str]] = []
    drawn, done = 0, 0.0
    for name, sign, colour, _ in (*_PARTS, ("reserve", "▁", "dim", "")):
        size = memory - place["usable_bytes"] if name == "reserve" else place[name]
        done += size
        end = min(width, round(width * done / memory))
        end = min(width, max(end, drawn + 1)) if size > 0 else end
        pieces.append((sign * max(0, end - drawn), colour))
        drawn = max(drawn, end)
    pieces.append(("·" * (width - drawn), "dim"))
    return Content.assemble(*pieces)


def _speeds(plan: Record) -> Iterator[Content]:
    if not plan["fits"]:
        missing, where = format_bytes(plan["missing_bytes"]), one_line(str(plan["missing_where"]))
        yield Content.styled(f"It cannot run: {missing} are missing in {where}.", "$text-error bold")
    for name, label in (("decode", "answers"), ("prefill", "prompts")):
        speed = plan.get(name)
        if speed:
            bad, good = speed["bad"], speed["good"]
            yield Content.assemble(
                f"{label:8}",
                (f"{_three(bad['tokens_per_s'])} to {_three(good['tokens_per_s'])} tokens/s", "bold"),
                f", limited by {one_line(str(good['limit']))}",
            )


def _steps(plan: Record, width: int) -> Iterator[Content]:
    steps = list(plan.get("steps") or [])[:_MOST_STEPS]
    if steps:
        yield Content()
        yield Content.styled("What would help, one change at a time", "bold")
    for step in steps:
        gain = "it runs" if step["gain"] is None else f"{step['gain']:.2f} times"
        good = step["decode"]["good"]["tokens_per_s"]
        change = one_line(str(step["change"])).ljust(min(46, max(0, width - 36)))
        yield Content(f"  {change} {gain:>10}: up to {_three(good)} tok/s")


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
