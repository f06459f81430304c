"""The map of the experts: layers as rows, experts as cells, coloured by tier, brighter when hot, lit when used."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from k2lite.events import ExpertReport
from tui.experts.grid import DRIVE, LEVELS, RAM, USED, Grid, make_grid
from tui.pacing import Pacer

_LABEL_WIDTH = 4
# Getting what is drawn here onto the terminal takes twice as long again: together some three hundredths of a core.
_PAUSE_PER_DRAWING = 100
_LABEL = Style(dim=True)

Colour = tuple[int, int, int]
LineKey = tuple[int, bytes, bytes, bytes, bytes]

_DRIVE_COLOURS: tuple[Colour, ...] = ((38, 38, 42), (62, 62, 68), (92, 92, 100), (128, 128, 138))
_RAM_COLOURS: tuple[Colour, ...] = ((22, 44, 92), (32, 68, 140), (48, 100, 190), (84, 146, 240))
# The cards take turns: neighbours differ, and all differ from RAM and drive.
_CARD_COLOURS: tuple[tuple[Colour, ...], ...] = (
    ((24, 78, 40), (36, 112, 56), (52, 156, 76), (96, 214, 120)),
    ((92, 64, 14), (136, 94, 20), (184, 130, 30), (240, 178, 60)),
    ((84, 30, 84), (122, 44, 122), (168, 66, 168), (222, 112, 222)),
    ((14, 84, 84), (22, 120, 120), (34, 164, 164), (80, 220, 220)),
    ((100, 40, 24), (144, 58, 36), (196, 82, 54), (246, 130, 98)),
)
_USED_COLOUR: Colour = (255, 255, 240)

# Where there are few colours, or none: what stands for a place, and how warmth is shown.
_SIGNS = {DRIVE: "·", RAM: "▒"}


class ExpertMap(Widget):
    """Draws lines; only those that have changed are drawn again. Costs nothing while it is not displayed."""

    DEFAULT_CSS = """
    ExpertMap { height: 1fr; width: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._report: ExpertReport | None = None
        self._keys: list[LineKey] = []
        self._strips: list[Strip] = []
        self._pacer = Pacer(pause_per_cost=_PAUSE_PER_DRAWING)

    @property
    def draws_signs(self) -> bool:
        """Whether characters stand for the tiers because colours cannot."""
        return self.app.console.color_system in (None, "standard") or self.app.native_ansi_color or self.app.no_color

    def take(self, report: ExpertReport | None) -> None:
        """Show this from now on; None clears the map."""
        self._report = report
        if report is None or self._pacer.due():
            started = self._pacer.now()
            self._draw()
            self._pacer.flushed(started)

    def on_resize(self) -> None:
        self._draw()

    def on_show(self) -> None:
        self._draw()

    def _draw(self) -> None:
        width, height = self.size
        if not self.display or not height or width <= _LABEL_WIDTH:
            return
        signs = self.draws_signs
        keys: list[LineKey] = []
        if self._report is not None:
            rows = height if signs else 2 * height
            grid = make_grid(self._report, rows, width - _LABEL_WIDTH)
            keys = list(_line_keys(grid, signs))
        old_keys, old_strips = self._keys, self._strips
        self._keys, self._strips = keys, []
        for y, key in enumerate(keys):
            if y < len(old_keys) and old_keys[y] == key:
                self._strips.append(old_strips[y])
            else:
                self._strips.append(_strip(key, signs))
                self.refresh(Region(0, y, width, 1))
        if len(old_keys) > len(keys):
            self.refresh()

    def render_line(self, y: int) -> Strip:
        if y < len(self._strips):
            return self._strips[y].adjust_cell_length(self.size.width)
        return Strip.blank(self.size.width)


def _line_keys(grid: Grid, signs: bool) -> Iterator[LineKey]:
    """What each line is made of: the first layer, and places and levels of its upper and its lower row of cells."""
    step = 1 if signs else 2
    for row in range(0, len(grid.places), step):
        lower = row + 1
        below = (grid.places[lower], grid.levels[lower]) if not signs and lower < len(grid.places) else (b"", b"")
        yield (grid.first_layers[row], grid.places[row], grid.levels[row], *below)


def _strip(key: LineKey, signs: bool) -> Strip:
    first, places, levels, places_below, levels_below = key
    segments = [Segment(f"{first:>{_LABEL_WIDTH - 1}} ", _LABEL)]
    if signs:
        cells = zip(places, levels, strict=True)
        segments += [Segment(_sign(*cell) * len(list(run)), _sign_style(cell[1])) for cell, run in groupby(cells)]
        return Strip(segments)
    if places_below:
        pairs = zip(places, levels, places_below, levels_below, strict=True)
        segments += [Segment("▀" * len(list(run)), _pair_style(*pair)) for pair, run in groupby(pairs)]
    else:
        cells = zip(places, levels, strict=True)
        segments += [Segment("▀" * len(list(run)), _single_style(*cell)) for cell, run in groupby(cells)]
    return Strip(segments)


@lru_cache(maxsize=8192)
def _pair_style(place: int, level: int, place_below: int, level_below: int) -> Style:
    return Style.from_color(_rich(colour_of(place, level)), _rich(colour_of(place_below, level_below)))


@lru_cache(maxsize=256)
def _single_style(place: int, level: int) -> Style:
    return Style.from_color(_rich(colour_of(place, level)))


def colour_of(place: int, level: int) -> Colour:
    """The colour of a cell."""
    if level >= USED:
        return _USED_COLOUR
    if place == DRIVE:
        return _DRIVE_COLOURS[level]
    if place == RAM:
        return _RAM_COLOURS[level]
    return _CARD_COLOURS[(place - 48) % len(_CARD_COLOURS)][level]


def _rich(colour: Colour) -> Color:
    return Color.from_rgb(*colour)


def _sign(place: int, level: int) -> str:
    return "█" if level >= USED and place in _SIGNS else _SIGNS.get(place, chr(place))


@lru_cache(maxsize=LEVELS + 1)
def _sign_style(level: int) -> Style:
    if level >= USED:
        return Style(reverse=True, bold=True)
    return Style(bold=True) if level == LEVELS - 1 else Style(dim=True) if level == 0 else Style()
