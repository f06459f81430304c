"""The panel beside the chat: the map, what each tier does against its roof, and how well experts are foreseen."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from k2lite.events import ExpertReport
from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes
from tui.experts.grid import DRIVE, RAM, count_places
from tui.experts.map import ExpertMap, colour_of
from tui.experts.rates import Rates, TierRates, merged, sparkline

_NOTHING_YET = "Experts: nothing is known yet. It comes with the next answer, if this model has experts and is paged."
_LEGEND_LEVEL = 2
_TALL_LINES = 24


class ExpertPanel(Vertical):
    """Shows the newest report while it is displayed; counts on while it is not."""

    def __init__(self) -> None:
        super().__init__(id="experts")
        self._rates = Rates()
        self._report: ExpertReport | None = None
        self._shape: object = None

    def compose(self) -> ComposeResult:
        yield Static(_NOTHING_YET, id="legend", markup=False)
        yield ExpertMap()
        yield Static(id="tiers", markup=False)

    def take(self, report: ExpertReport) -> None:
        """A newer report."""
        self._report = report
        self._rates.take(report)
        if self.display:
            self._draw_report()

    def clear(self) -> None:
        """Another model: nothing is known of it yet."""
        self._report, self._rates = None, Rates()
        self.query_one("#legend", Static).update(_NOTHING_YET)
        self.query_one("#tiers", Static).update("")
        self.query_one(ExpertMap).take(None)

    def toggle(self) -> None:
        """Show it, or hide it."""
        self.display = not self.display
        self.call_after_refresh(self._draw_report)

    def on_resize(self) -> None:
        self._draw_report()

    def _draw_report(self) -> None:
        report = self._report
        if report is None or not self.display:
            return
        tiers = self._tier_lines(report)
        # Laying the screen out anew costs more than all the rest: only when something has become longer.
        shape = (len(tiers), self.size, tuple(count_places(report)))
        layout, self._shape = shape != self._shape, shape
        self.query_one("#legend", Static).update(self._legend(report), layout=layout)
        self.query_one("#tiers", Static).update(Content("\n").join(tiers), layout=layout)
        self.query_one(ExpertMap).take(report)

    def _legend(self, report: ExpertReport) -> Content:
        experts = max(map(len, report.places), default=0)
        parts: list[object] = [f"{len(report.places)} x {experts} experts: "]
        counts = count_places(report)
        cards = [place for place in counts if place.isdecimal()]
        if len(cards) > 1 and self.size.height < _TALL_LINES:
            signs = [(_sign(place), _colour_style(place)) for place in cards]
            parts += [*signs, f" cards {sum(counts.pop(place) for place in cards):,}  "]
        for place, count in counts.items():
            name = {"r": "RAM", ".": "drive"}.get(place, f"card {place}")
            parts += [(_sign(place), _colour_style(place)), f" {name} {count:,}  "]
        return Content.assemble(*parts, ("█", "#fffff0"), " in use")  # type: ignore[arg-type]

    def _tiers(self) -> list[TierRates]:
        """All of them; the cards as one where lines are few."""
        tiers = list(self._rates.tiers.values())
        cards = [rates for rates in tiers if rates.report.name.startswith("card ")]
        if len(cards) < 2 or self.size.height >= _TALL_LINES:
            return tiers
        return [merged(f"{len(cards)} cards", cards), *(rates for rates in tiers if rates not in cards)]

    def _tier_lines(self, report: ExpertReport) -> list[Content]:
        width = self.size.width
        lines = [_tier_line(rates, width) for rates in self._tiers()]
        counts = [f"{report.promotions:,} promotions", f"{report.evictions:,} evictions"]
        if report.lookahead_reads:
            share = 100 * report.lookahead_used / report.lookahead_reads
            counts.append(f"look-ahead right {share:.0f} % of {report.lookahead_reads:,}")
        if report.stall_s:
            counts.append(f"waited {report.stall_s:.1f} s")
        if report.queue_depth:
            counts.append(f"queue {report.queue_depth:.1f}")
        lines.append(Content.styled(" · ".join(counts), "dim"))
        return lines + [Content.styled(one_line(note), "dim") for note in report.notes]


def _tier_line(rates: TierRates, width: int) -> Content:
    tier = rates.report
    top = tier.roof_bytes_per_s or max(rates.speeds, default=0.0)
    speed = f"{rates.bytes_per_s / 1e9:.3g} GB/s"
    roof, share = tier.roof_bytes_per_s, rates.roof_share
    if roof and share is not None:
        digits = 0 if roof > 1e11 else 1
        speed = f"{rates.bytes_per_s / 1e9:,.{digits}f} of {roof / 1e9:,.0f} GB/s ({100 * share:.0f} %)"
    room = f"{format_bytes(tier.used_bytes)}/{format_bytes(tier.capacity_bytes)}" if tier.capacity_bytes else ""
    text = f" {100 * rates.hit_share:3.0f} % hits · {speed} · {room}"
    bars = max(6, min(60, width - len(text) - 9))
    place = {"RAM": "r", "drive": "."}.get(tier.name, tier.name.removeprefix("card "))
    return Content.assemble(
        f"{one_line(tier.name)[:7]:7} ", (sparkline(rates.speeds, top, bars), _colour_style(place[:1])), text
    )


def _sign(place: str) -> str:
    return {"r": "▒", ".": "·"}.get(place, place)


def _colour_style(place: str) -> str:
    code = ord(place) if place.isdecimal() else RAM if place == "r" else DRIVE
    return "#{:02x}{:02x}{:02x}".format(*colour_of(code, _LEGEND_LEVEL + 1))
