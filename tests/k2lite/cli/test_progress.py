"""Progress where it is read by a person, and where it is not."""

import sys

import pytest

from k2lite.cli.progress import PlainLines, shown_progress
from k2lite.sizes import format_bytes
from tests.k2lite.cli.conftest import Terminal


def test_short_work_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as show:
        show("loading", 0, 10)
        show("loading", 10, 10)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines(format_bytes, every_s=0.0)
    lines("loading", 0, 4 * 2**20)
    lines("loading", 2**20, 4 * 2**20)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("loading: 25 % of 4.00 MiB, ")
    assert line.endswith(" left")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown_progress() as show:
        show("loading [red]", 2**20, 4 * 2**20)
    assert "loading [red]" in terminal.getvalue()
    assert "1.00 MiB of 4.00 MiB" in terminal.getvalue()
