"""Reports as an engine would send them, made up."""

import random

from k2lite.events import ExpertReport, TierReport

GIB = 2**30


def k2_report(step: int = 0, layers: int = 60, experts: int = 384, cards: int = 4) -> ExpertReport:
    """Kimi K2 on some cards, RAM and a drive; `step` counts half seconds."""
    rng = random.Random(1)  # places and heat hardly change from one report to the next
    moving = random.Random(step)
    places, heat, used = [], [], []
    for layer in range(layers):
        card = str(layer * cards // layers)
        warmth = [rng.paretovariate(1.2) for _ in range(experts)]
        order = sorted(range(experts), key=lambda expert: -warmth[expert])
        place = ["."] * experts
        for rank, expert in enumerate(order):
            place[expert] = card if rank < experts // 8 else "r" if rank < experts * 3 // 4 else "."
        places.append("".join(place))
        heat.append("".join(str(min(9, int(value * 1.5))) for value in warmth))
        used.append(tuple(moving.choices(range(experts), weights=warmth, k=8)))
    return ExpertReport(1, tuple(places), tuple(heat), tuple(used), tier_reports(step, cards), 300 + step, 420 + step,
                        1.5, 3.0, 512 + 8 * step, 340 + 6 * step)  # fmt: skip


def tier_reports(step: int, cards: int) -> tuple[TierReport, ...]:
    """Counters that grow evenly, but for a wave in what RAM does."""
    wave = 1 + 0.5 * ((step % 8) / 8)
    on_cards = [
        TierReport(f"card {number}", 24 * GIB, 20 * GIB, 1000 * step, int(4e9) * step, 0.01 * step, 1.0e12)
        for number in range(cards)
    ]
    return (
        *on_cards,
        TierReport("RAM", 512 * GIB, 500 * GIB, 3000 * step, int(90e9 * step * wave), 0.45 * step, 330e9),
        TierReport("drive", 0, 0, 200 * step, int(3e9) * step, 0.4 * step, 12e9),
    )
