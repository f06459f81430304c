"""What a slice says about the whole model on a machine that holds a part of it."""

from typing import Any

import pytest

from k2lite.bench.paged import PagedRound
from k2lite.bench.shape_here import from_measured, here_lines

GIB = 1 << 30


def summary(tokens_per_s: float = 20.0) -> dict[str, Any]:
    """50 ms a token, of which the two layers with experts take 10 each."""
    return {
        "weight_bytes_per_token": 1_500_000_000,
        "decode_tokens_per_s": tokens_per_s,
        "decode_spread": {"median": tokens_per_s, "least": 0.9 * tokens_per_s, "most": 1.1 * tokens_per_s},
        "estimate": {"token_ms": 650.0, "expert_layer_ms": 10.0},
    }


def paged(*layers_ms: float, read: float = 7.5, drive: float = 3e9) -> list[PagedRound]:
    """Rounds in which a layer took so long, with that many experts read in it."""
    return [PagedRound((30 + 2 * ms) / 1000, read, drive) for ms in layers_ms]


def test_with_everything_in_ram_it_is_the_estimate() -> None:
    here = from_measured("k2", summary(), 800 * GIB, [])
    assert here["ram_share"] == 1.0
    assert list(here["by_curve"].values()) == pytest.approx([1000 / 650] * 3)
    assert (here["least"], here["most"]) == (pytest.approx(0.9 * 1000 / 650), pytest.approx(1.1 * 1000 / 650))


def test_a_layer_as_slow_as_measured_makes_the_whole_as_slow() -> None:
    # 64 GiB hold 8.0 % of the experts, so that of 8 picks of even routing about 7.36 are read.
    here = from_measured("k2", summary(), 64 * GIB, paged(95, 100, 105, read=8 * (1 - 0.08)))
    assert here["ram_share"] == pytest.approx(0.08, abs=0.01)
    whole_ms = 650 + 60 * (100 - 10)
    assert here["by_curve"]["even"] == pytest.approx(1000 / whole_ms, rel=0.02)
    assert here["slice_layer_ms"] == pytest.approx(100)
    assert here["least"] < here["by_curve"]["even"] < here["decode_tokens_per_s"] < here["most"]


def test_the_better_experts_are_found_the_faster_it_is() -> None:
    here = from_measured("k2", summary(), 64 * GIB, paged(100))
    curves = here["by_curve"]
    assert curves["even"] < curves["pessimistic"] < curves["nominal"] == here["decode_tokens_per_s"]
    more = from_measured("k2", summary(), 256 * GIB, paged(100))
    assert more["by_curve"]["even"] > 1.3 * curves["even"]


def test_rounds_that_differ_make_the_bar_longer() -> None:
    near, far = (from_measured("k2", summary(), 64 * GIB, paged(100 - by, 100, 100 + by)) for by in (1, 30))
    assert far["least"] < near["least"] < near["most"] < far["most"]


def test_lines_tell_what_was_measured_and_what_is_guessed() -> None:
    here = from_measured("k2", summary(), 64 * GIB, paged(100)) | {"slice_ram_share": 0.075}
    text = "\n".join(here_lines(here))
    assert "100.0 ms a layer of which 7.5 of 8 experts were read" in text
    assert "7.5 % of the slice's in RAM" in text and "it gives 3.00 GB/s to who does nothing else" in text


def test_a_machine_that_is_too_small_is_told_so() -> None:
    here = from_measured("k2", summary(), 4 * GIB, [])
    assert here["missing_bytes"] > 0
    assert "cannot run" in here_lines(here)[0]
