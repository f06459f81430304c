"""What a slice says about the whole model on a machine that holds a part of it."""

from typing import Any

import pytest

from k2lite.bench.shape_here import from_measured, here_lines


def summary(memory_gib: float, tokens_per_s: float = 20.0) -> dict[str, Any]:
    return {
        "weight_bytes_per_token": 1_500_000_000,
        "decode_tokens_per_s": tokens_per_s,
        "decode_spread": {"median": tokens_per_s, "least": 0.9 * tokens_per_s, "most": 1.1 * tokens_per_s},
        "machine": {"memory_bytes": int(memory_gib * 2**30)},
        "estimate": {"token_ms": 650.0},
    }


def test_with_everything_in_ram_it_is_the_estimate() -> None:
    here = from_measured("k2", summary(800), 3e9)
    assert here["ram_share"] == 1.0
    assert list(here["by_curve"].values()) == pytest.approx([1000 / 650] * 3)
    assert (here["least"], here["most"]) == (pytest.approx(0.9 * 1000 / 650), pytest.approx(1.1 * 1000 / 650))


def test_a_small_machine_is_bound_by_its_drive() -> None:
    slow, fast = (from_measured("k2", summary(64), rate) for rate in (2e9, 8e9))
    for here in (slow, fast):
        curves = here["by_curve"]
        assert curves["even"] < curves["pessimistic"] < curves["nominal"] == here["decode_tokens_per_s"]
        assert here["least"] < curves["even"] < curves["nominal"] < here["most"]
    assert 2 < fast["decode_tokens_per_s"] / slow["decode_tokens_per_s"] < 4
    assert "64" not in here_lines(slow)[0] and "a drive of 2.00 GB/s" in here_lines(slow)[0]


def test_a_machine_that_is_too_small_is_told_so() -> None:
    here = from_measured("k2", summary(4), 3e9)
    assert here["missing_bytes"] > 0
    assert "cannot run" in here_lines(here)[0]
