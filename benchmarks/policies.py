"""Which experts stay in fast memory: our policy on recorded routings, beside others and the optimum.

    python -m benchmarks.policies [TRACE ...] [--json]

Without TRACE the recordings of the reference data are used (../shared/data/traces). Everything is exact and takes no
measuring: the same recording gives the same figures on every machine. Exit status 1 when a target is missed: never
fewer hits than LRU; on Kimi-Linear at least 88 % of the optimum's hits at a quarter of the experts and 92 % from three
eighths up; promotions to cards never more than their links had time for.

RAM: what misses is read and takes a place. Hits over the whole recording, which begins with empty memory.
Second half: pinned are the experts most used in the first half; ours has the first half behind it.
Cards: RAM has everything, experts are copied to cards in the background, as many as a link of that speed has time for.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.baseline_caches import belady, first_in_first_out, least_recently_used, pinned, uses
from offload.dispatch import CardSpeeds, MachineSpeeds
from offload.simulate import Workplace, simulate
from offload.trace import RoutingTrace, read_trace

_TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
SHARES = (0.02, 0.031, 0.0625, 0.125, 0.18, 0.25, 0.375, 0.50)
CARD_SHARES = (0.02, 0.062, 0.14, 0.30)
CARD_BUDGETS = (0.1, 0.25, 0.5, 1.0, 1e9)  # promotions for each layer and token that the link has time for
# Of the optimum's hits, from a share of experts on. Only a router like that of Kimi K2 is held to it, see the docs.
OPTIMUM_TARGETS = {"kimi-linear-48b": ((0.25, 0.88), (0.375, 0.92), (0.50, 0.92))}

_SLOT = 1000
_SPEEDS = MachineSpeeds(cpu_bytes_per_s=1e9, drive_bytes_per_s=1e9, cpu_flops=1e12)


def main() -> int:
    options = _options()
    results = [measured(path) for path in options.traces]
    print(json.dumps(results) if options.json else "\n".join(line for result in results for line in _lines(result)))
    missed = [text for result in results for text in missed_targets(result)]
    for text in missed:
        print(f"missed: {text}", file=sys.stderr)
    return 1 if missed else 0


def measured(path: Path) -> dict[str, Any]:
    """All tables for one recording."""
    trace = read_trace(path)
    return {
        "trace": path.stem,
        "tokens": len(trace.tokens),
        "layers": trace.layers,
        "experts": trace.experts,
        "used": trace.used_per_layer,
        "ram": [_ram_row(trace, share) for share in SHARES],
        "cards": [_card_row(trace, share, budget) for share in CARD_SHARES for budget in CARD_BUDGETS],
    }


def missed_targets(result: dict[str, Any]) -> Iterator[str]:
    """What falls short of the targets, in words."""
    for row in result["ram"]:
        where = f"{result['trace']} at {row['share']:.1%}"
        if row["ours"] < row["lru"]:
            yield f"{where}: {row['ours']:.4f} is below LRU's {row['lru']:.4f}"
        for share, target in OPTIMUM_TARGETS.get(result["trace"], ()):
            if row["share"] == share and row["ours"] < target * row["belady"]:
                yield f"{where}: {row['ours'] / row['belady']:.3f} of the optimum instead of {target}"
    for row in result["cards"]:
        if row["promotions"] > row["budget"] + 1:
            yield f"{result['trace']}: {row['promotions']:.2f} promotions at a budget of {row['budget']}"


def _ram_row(trace: RoutingTrace, share: float) -> dict[str, float]:
    room = int(share * trace.layers * trace.experts)
    sequence = uses(trace)
    half = replace(trace, tokens=trace.tokens[: len(trace.tokens) // 2])
    first = uses(half)
    second = sequence[len(first) :]

    def ours(decay: float | None = None, of: RoutingTrace = trace) -> float:
        return simulate(of, Workplace(_SPEEDS, room * _SLOT, (), _SLOT, _SLOT, decay=decay)).hit_rate

    hits_of_both, hits_of_first = ours() * len(sequence), ours(of=half) * len(first)
    return {
        "share": share,
        "lru": least_recently_used(sequence, room) / len(sequence),
        "fifo": first_in_first_out(sequence, room) / len(sequence),
        "lfu": ours(1 - 1e-9),
        "decay 0.97": ours(0.97),
        "ours": ours(),
        "belady": belady(sequence, room) / len(sequence),
        "pinned, 2nd half": pinned(second, room, first) / len(second),
        "ours, 2nd half": (hits_of_both - hits_of_first) / len(second),
    }


def _card_row(trace: RoutingTrace, share: float, budget: float) -> dict[str, float]:
    """`budget` promotions for each layer and token. The link's speed follows from what a token takes."""
    room = int(share * trace.layers * trace.experts)
    layer_s = 1.0
    card = CardSpeeds(memory_bytes_per_s=1e18, link_bytes_per_s=budget * _SLOT / layer_s, flops=1e18, handover_s=0.0)
    speeds = replace(_SPEEDS, cpu_bytes_per_s=1e18, cards=(card,))
    place = Workplace(speeds, None, (room * _SLOT,), _SLOT, _SLOT, layer_s=layer_s, link_share=1.0)
    found = simulate(trace, place)
    steps = found.tokens * trace.layers
    return {"share": share, "budget": budget, "hits": found.share("card 0"), "promotions": found.promotions / steps}


def _lines(result: dict[str, Any]) -> Iterator[str]:
    head = "{trace}: {tokens} tokens, {layers} layers, {used} of {experts} experts".format_map(result)
    names = [name for name in result["ram"][0] if name != "share"]
    yield from (head, "", f"| RAM holds | {' | '.join(names)} | of the optimum |", "| --- " * (len(names) + 2) + "|")
    for row in result["ram"]:
        cells = " | ".join(f"{100 * row[name]:.1f}" for name in names)
        yield f"| {100 * row['share']:.4g} % | {cells} | {100 * row['ours'] / row['belady']:.1f} % |"
    budgets = [f"{budget:g}" if budget < 1e6 else "any" for budget in CARD_BUDGETS]
    yield from ("", "| cards hold | " + " | ".join(budgets) + " |", "| --- " * (len(budgets) + 1) + "|")
    for share in CARD_SHARES:
        rows = [row for row in result["cards"] if row["share"] == share]
        cells = " | ".join(f"{100 * row['hits']:.1f} ({row['promotions']:.2f})" for row in rows)
        yield f"| {100 * share:.4g} % | {cells} |"
    yield ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE", help="recorded routings")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    options = parser.parse_args()
    options.traces = options.traces or sorted(_TRACES.glob("*.jsonl"))
    if not options.traces:
        parser.error(f"there is no recording in {_TRACES}: name one")
    return options


if __name__ == "__main__":
    sys.exit(main())
