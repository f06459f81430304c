"""The expert map in the chat."""

import asyncio
import time

import pytest

from k2lite.events import ExpertReport
from tests.tui.experts.reports import k2_report
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import Chat, chat
from tui.experts.map import ExpertMap
from tui.experts.panel import ExpertPanel


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
    from dataclasses import replace

    report = k2_report(1)
    tiers = (replace(report.tier_reports[0], name="[b]x\x1b[31m"),)
    async with chat(FakeEngine(), experts=True, size=(120, 40)) as screen:
        await screen.ready()
        screen.app.show_report(replace(report, tier_reports=tiers, notes=("[red]note[/red]\x07",)))
        await screen.shows("[b]x␛[3", "[red]note[/red]␇")


@pytest.mark.slow
async def test_k2_at_full_size_takes_less_than_a_twentieth_of_a_core() -> None:
    """Reports come twice a second, as an engine sends them. Drawing and laying out count as well as computing."""
    reports = [k2_report(step) for step in range(20)]
    async with chat(FakeEngine(), size=(480, 80), experts=True) as screen:
        await screen.ready()
        screen.app.show_report(k2_report(99))
        await asyncio.sleep(1)
        busy, began = time.process_time(), time.monotonic()
        for report in reports:
            screen.app.show_report(report)
            await asyncio.sleep(0.5)
        share = (time.process_time() - busy) / (time.monotonic() - began)
        print(f"60 x 384 at full size, two reports a second: {100 * share:.1f} % of one core")
        assert share < 0.05
