"""What all displays of progress have in common."""

import sys
from types import SimpleNamespace

import pytest

from k2lite.cli import display
from k2lite.cli.display import Bar, Lines, shown
from tests.k2lite.cli.conftest import Terminal

ERASE_LINE, SHOW_CURSOR = "\x1b[2K", "\x1b[?25h"


def test_a_bar_is_erased_on_control_c(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(KeyboardInterrupt), shown(lambda progress: Bar(progress, "working"), Lines) as bar:
        assert isinstance(bar, Bar)
        bar.update("working [red]", 1, 2, "half [red]")
        raise KeyboardInterrupt
    shown_text, end = terminal.getvalue().rsplit("half [red]", 1)
    assert "working [red]" in shown_text
    assert SHOW_CURSOR in end
    assert end.endswith(ERASE_LINE)


def test_a_log_gets_lines_with_pauses_between_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: clock.now_s)
    with shown(lambda progress: Bar(progress, "working"), Lines) as lines:
        assert isinstance(lines, Lines)
        for clock.now_s in (100.0, 104.9, 105.0, 109.9, 110.0):
            if lines.due(5.0):
                lines.write(f"after {lines.age_s:.0f} s")
    assert capsys.readouterr() == ("", "after 5 s\nafter 10 s\n")
