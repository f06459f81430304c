"""From a report about experts to a grid of cells of any size: layers downwards, experts to the right."""

from collections.abc import Sequence
from dataclasses import dataclass

from k2lite.events import ExpertReport

DRIVE, RAM = ord("."), ord("r")
LEVELS = 4  # of heat; one more stands for experts that the latest token used
USED = LEVELS

_HEAT_TO_LEVEL = bytes(
    min(LEVELS - 1, (code - 48 + 1) * LEVELS // 11) if 48 <= code <= 57 else 0 for code in range(256)
)


@dataclass(frozen=True)
class Grid:
    """Rows of cells, one byte a cell: the tier that most of its experts are in, and how warm the warmest is.

    Places are characters as in ExpertReport.places; `first_layers` has the number of each row's first layer.
    """

    places: tuple[bytes, ...]
    levels: tuple[bytes, ...]
    first_layers: tuple[int, ...]

    @property
    def columns(self) -> int:
        return len(self.places[0]) if self.places else 0


def make_grid(report: ExpertReport, rows: int, columns: int) -> Grid:
    """The report in at most `rows` x `columns` cells; where that is too few, a cell stands for several experts."""
    layers = [places.encode("ascii", "replace") for places in report.places]
    warmth = [_levels(report, number) for number in range(len(layers))]
    if not layers or rows < 1 or columns < 1:
        return Grid((), (), ())
    groups = _spread(len(layers), rows)
    width = max(map(len, layers))
    if width <= columns:
        places = [_majority_rows(layers[begin:end]) for begin, end in groups]
        levels = [_warmest_rows(warmth[begin:end]) for begin, end in groups]
    else:
        spans = _spread(width, columns)
        places = [bytes(_majority(_block(layers[begin:end], span)) for span in spans) for begin, end in groups]
        levels = [bytes(max(_block(warmth[begin:end], span), default=0) for span in spans) for begin, end in groups]
    firsts = tuple(report.first_layer + begin for begin, _ in groups)
    return Grid(tuple(places), tuple(levels), firsts)


def count_places(report: ExpertReport) -> dict[str, int]:
    """How many experts are in each place, by the characters of ExpertReport.places."""
    everything = "".join(report.places)
    return {place: everything.count(place) for place in sorted(set(everything))}


def _levels(report: ExpertReport, layer: int) -> bytes:
    heat = report.heat[layer] if layer < len(report.heat) else ""
    length = len(report.places[layer])
    levels = bytearray(heat.encode("ascii", "replace").translate(_HEAT_TO_LEVEL)[:length].ljust(length, b"\0"))
    for expert in report.used[layer] if layer < len(report.used) else ():
        if 0 <= expert < length:
            levels[expert] = USED
    return bytes(levels)


def _spread(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` things in at most `parts` runs of nearly the same length."""
    parts = min(count, parts)
    return [(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def _block(rows: Sequence[bytes], span: tuple[int, int]) -> bytes:
    begin, end = span
    return rows[0][begin:end] if len(rows) == 1 else b"".join(row[begin:end] for row in rows)


def _majority(block: bytes) -> int:
    """The place that most of the block is in; of equals the faster one."""
    if not block:
        return DRIVE
    first = block[0]
    if block.count(first) == len(block):
        return first
    return max(set(block), key=lambda place: (block.count(place), place != DRIVE, place != RAM))


def _majority_rows(rows: Sequence[bytes]) -> bytes:
    return rows[0] if len(rows) == 1 else bytes(_majority(bytes(column)) for column in zip(*rows, strict=True))


def _warmest_rows(rows: Sequence[bytes]) -> bytes:
    return rows[0] if len(rows) == 1 else bytes(map(max, *rows))
