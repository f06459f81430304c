"""The expert map in the chat."""

from dataclasses import replace

import pytest

from k2lite.events import ExpertReport
from tests.tui.experts.reports import k2_report
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import Chat, chat
from tests.tui.test_pacing import Clock
from tui.experts.map import ExpertMap
from tui.experts.panel import ExpertPanel
from tui.pacing import Pacer


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test has no terminal whose colours could be asked for."""
    monkeypatch.setattr(ExpertMap, "draws_signs", False)


def panel_of(screen: Chat) -> ExpertPanel:
    return screen.app.query_one(ExpertPanel)


async def test_reports_among_the_tokens_are_shown_by_a_key() -> None:
    engine = FakeEngine([Script(says("One."), news=[k2_report(1), k2_report(2)])])
    async with chat(engine) as screen:
        await screen.ask("go")
        assert not panel_of(screen).display
        await screen.pilot.press("f2")
        await screen.shows("60 x 384 experts", "0123 cards 2,880", "RAM", "drive", "in use", "4 cards", "of 330 GB/s")
        await screen.shows("422 promotions", "look-ahead right 67 %")
        await screen.shows("▀▀▀")
        await screen.pilot.press("f2")
        await screen.until(lambda: not panel_of(screen).display)


async def test_events_that_nobody_knows_yet_are_passed_over() -> None:
    class News:
        pass

    engine = FakeEngine([Script(says("One."), news=[News(), k2_report(1)])])
    async with chat(engine) as screen:
        assert await screen.ask("go") == "One."
        assert screen.errors == []


@pytest.mark.parametrize("size", [(80, 24), (160, 48), (200, 60), (480, 80)])
async def test_the_map_fills_its_place_at_any_size(size: tuple[int, int]) -> None:
    async with chat(FakeEngine(), size=size, experts=True) as screen:
        await screen.ready()
        screen.app.show_report(k2_report(1))
        await screen.pilot.pause()
        map_ = screen.app.query_one(ExpertMap)
        assert map_.size.height >= (3 if size[1] < 30 else 15)
        strips = [map_.render_line(y) for y in range(map_.size.height)]
        assert all(strip.cell_length == map_.size.width for strip in strips)
        drawn = [strip for strip in strips if "▀" in strip.text]
        assert len(drawn) == min(30, map_.size.height)
        if size[0] == 480:
            assert drawn[0].text.count("▀") == 384


async def test_it_follows_a_change_of_size() -> None:
    async with chat(FakeEngine(), size=(200, 60), experts=True) as screen:
        await screen.ready()
        screen.app.show_report(k2_report(1))
        await screen.pilot.resize_terminal(80, 24)
        await screen.pilot.pause()
        map_ = screen.app.query_one(ExpertMap)
        await screen.until(lambda: map_.render_line(0).cell_length == map_.size.width and map_.size.width < 80)
        await screen.shows("60 x 384 experts", "▀▀▀")


async def test_signs_stand_for_the_tiers_where_colours_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExpertMap, "draws_signs", True)
    report = ExpertReport(1, ("0r..", "1r.."), ("9990", "0000"), ((), (3,)), ())
    async with chat(FakeEngine(), experts=True) as screen:
        await screen.ready()
        screen.app.show_report(report)
        await screen.pilot.pause()
        map_ = screen.app.query_one(ExpertMap)
        assert map_.render_line(0).text.strip() == "1 0▒··"
        assert map_.render_line(1).text.strip() == "2 1▒·█"


async def test_another_model_begins_with_an_empty_map() -> None:
    async with chat(FakeEngine(), experts=True) as screen:
        await screen.ready()
        screen.app.show_report(k2_report(1))
        panel_of(screen).clear()
        await screen.pilot.pause()
        await screen.shows("nothing is known yet")
        assert "▀" not in screen.screen_text()


async def test_hostile_names_are_only_text() -> None:
    report = k2_report(1)
    tiers = (replace(report.tier_reports[0], name="[b]x\x1b[31m"),)
    async with chat(FakeEngine(), experts=True, size=(120, 40)) as screen:
        await screen.ready()
        screen.app.show_report(replace(report, tier_reports=tiers, notes=("[red]note[/red]\x07",)))
        await screen.shows("[b]x␛[3", "[red]note[/red]␇")


async def test_drawing_the_map_takes_no_more_than_a_hundredth_of_the_time() -> None:
    """However long one drawing takes: here 30 ms on a clock of the test's own, with two reports a second."""
    clock = Clock()
    async with chat(FakeEngine(), size=(480, 80), experts=True) as screen:
        await screen.ready()
        map_ = screen.app.query_one(ExpertMap)
        map_._pacer = Pacer(clock, map_._pacer._pause_per_cost)
        draw, drawn = map_._draw, 0

        def slow_drawing() -> None:
            nonlocal drawn
            drawn += 1
            clock.time += 0.03
            draw()

        map_._draw = slow_drawing  # type: ignore[method-assign]
        began = clock.time
        for step in range(100):
            screen.app.show_report(k2_report(step))
            clock.time += 0.5
        assert drawn > 5
        assert drawn * 0.03 <= (clock.time - began) / 100


async def test_only_lines_that_have_changed_are_drawn_again() -> None:
    async with chat(FakeEngine(), size=(480, 80), experts=True) as screen:
        await screen.ready()
        map_ = screen.app.query_one(ExpertMap)
        map_._pacer = Pacer(pause_per_cost=0)
        report = k2_report(1)
        screen.app.show_report(report)
        await screen.pilot.pause(0.1)
        before = list(map_._strips)
        used = list(report.used)
        used[30] = tuple(expert + 1 for expert in range(8))
        screen.app.show_report(replace(report, used=tuple(used)))
        changed = [y for y, (old, new) in enumerate(zip(before, map_._strips, strict=True)) if old is not new]
        assert len(changed) == 1


async def test_reports_of_the_same_shape_lay_nothing_out_anew() -> None:
    async with chat(FakeEngine(), size=(480, 80), experts=True) as screen:
        await screen.ready()
        for step in range(2):
            screen.app.show_report(k2_report(step))
            await screen.pilot.pause(0.1)
        laid_out = 0
        reflow = screen.app.screen._compositor.reflow

        def counted(*arguments: object) -> object:
            nonlocal laid_out
            laid_out += 1
            return reflow(*arguments)  # type: ignore[arg-type]

        screen.app.screen._compositor.reflow = counted  # type: ignore
        for step in range(2, 6):
            screen.app.show_report(k2_report(step))
            await screen.pilot.pause(0.1)
        assert laid_out == 0
