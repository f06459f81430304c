"""From a report to cells."""

from k2lite.events import ExpertReport
from tests.tui.experts.reports import k2_report
from tui.experts.grid import DRIVE, LEVELS, RAM, USED, count_places, make_grid


def report(places: tuple[str, ...], heat: tuple[str, ...] = (), used: tuple[tuple[int, ...], ...] = ()) -> ExpertReport:
    return ExpertReport(3, places, heat, used, ())


def test_where_there_is_room_every_expert_is_a_cell() -> None:
    grid = make_grid(report(("0r..", "11r."), ("9500", "0000"), ((), (3,))), rows=10, columns=10)
    assert grid.places == (b"0r..", b"11r.")
    assert [list(row) for row in grid.levels] == [[LEVELS - 1, 2, 0, 0], [0, 0, 0, USED]]
    assert grid.first_layers == (3, 4)


def test_a_cell_shows_the_place_of_most_and_the_warmest() -> None:
    grid = make_grid(report(("00r.", "0rr."), ("0090", "0000")), rows=1, columns=2)
    assert grid.places == (b"0r",)
    assert list(grid.levels[0]) == [0, LEVELS - 1]
    assert make_grid(report(("r.",)), 1, 1).places == (b"r",)  # of equals the faster one
    assert make_grid(report(("0r",)), 1, 1).places == (b"0",)


def test_an_expert_in_use_lights_its_cell() -> None:
    grid = make_grid(report(("....", "...."), (), ((), (1,))), rows=1, columns=2)
    assert list(grid.levels[0]) == [USED, 0]


def test_k2_fits_any_size_with_every_expert_counted_once() -> None:
    whole = k2_report()
    for rows, columns in ((1, 1), (20, 76), (44, 100), (60, 384), (200, 500)):
        grid = make_grid(whole, rows, columns)
        assert len(grid.places) == min(60, rows)
        assert grid.columns == min(384, columns)
        assert all(len(row) == grid.columns for row in (*grid.places, *grid.levels))
    assert sum(count_places(whole).values()) == 60 * 384


def test_uneven_and_odd_reports_are_drawn_as_far_as_they_go() -> None:
    assert make_grid(report(()), 5, 5).places == ()
    grid = make_grid(report(("r.", "r")), rows=2, columns=1)
    assert grid.places == (b"r", b"r")
    odd = make_grid(report(("é?",), ("x",), ((-1, 99),)), rows=1, columns=2)
    assert len(odd.places[0]) == 2
    assert list(odd.levels[0]) == [0, 0]


def test_places_are_counted_by_name() -> None:
    assert count_places(report(("0r.", "rr."))) == {".": 2, "0": 1, "r": 3}
    assert (ord("."), ord("r")) == (DRIVE, RAM)
