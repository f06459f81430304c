"""What is said while a conversion runs."""

import sys
from dataclasses import replace

import pytest

from k2lite.cli.convert_progress import ConversionLines, PhaseClock, Rates, shown_conversion
from quant.convert.job_types import ConvertProgress
from tests.k2lite.cli.conftest import Terminal

HALF = ConvertProgress("writing", 500_000_000, 1_000_000_000, 300_000_000, 600_000_000, 0, 0, "blk.1.ffn_up", 10.0)


def test_rates_are_of_this_run_alone() -> None:
    resumed = replace(HALF, resumed_weights=400_000_000, resumed_bytes=240_000_000)
    rates = Rates.of(resumed, 10.0)
    assert (rates.weights_per_s, rates.bytes_per_s, rates.left_s) == (10e6, 6e6, 50.0)


def test_verification_is_measured_in_bytes_from_its_own_beginning() -> None:
    clock = PhaseClock()
    assert clock.seconds(HALF) == 10.0
    verifying = replace(HALF, phase="verifying", done_weights=1_000_000_000, written_bytes=0, elapsed_s=20.0)
    assert clock.seconds(verifying) == 0.0
    later = replace(verifying, written_bytes=200_000_000, elapsed_s=22.0)
    rates = Rates.of(later, clock.seconds(later))
    assert (rates.weights_per_s, rates.bytes_per_s, rates.left_s) == (0.0, 1e8, 4.0)


def test_nothing_is_promised_before_anything_is_done() -> None:
    assert Rates.of(replace(HALF, done_weights=0, written_bytes=0), 1.0).left_s is None


def test_a_log_gets_a_line_with_rates_and_the_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    ConversionLines(first_every_s=0.0)(HALF)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "quantizing: 50 % of 572 MiB, 50 M weights/s, 0.03 GB/s, 0:10 left, at blk.1.ffn_up"


def test_short_work_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    ConversionLines()(HALF)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    with shown_conversion() as show:
        show(HALF)
    assert "blk.1.ffn_up" in terminal.getvalue()
    assert "50 M weights/s" in terminal.getvalue()
