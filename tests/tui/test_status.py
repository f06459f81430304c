"""The status line in words."""

import pytest

from k2lite.events import Finished, FinishReason, LoadProgress, PrefillProgress
from tui.status import context_gauge, decode_status, finished_status, load_status, prefill_status


def test_loading_and_preparing_are_told_apart() -> None:
    assert load_status(LoadProgress(2**30, 2**32)) == "loading 1.00 GiB of 4.00 GiB (25 %)"
    assert load_status(LoadProgress(0, 0, "quantize")) == "preparing the demo model (once) 0 B of 0 B (0 %)"


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (PrefillProgress(0, 100, 0, 0.0), "prompt 0 / 100 tokens (0 %)"),
        (PrefillProgress(40, 100, 40, 0.0), "prompt 40 / 100 tokens (40 %), 40 of them kept"),
        (PrefillProgress(60, 100, 40, 2.0), "prompt 60 / 100 tokens (60 %), 10.0 tok/s, 0:04 left"),
    ],
)
def test_the_rate_of_a_prompt_leaves_out_what_was_kept(progress: PrefillProgress, line: str) -> None:
    assert prefill_status(progress) == line


def test_a_load_that_takes_longer_says_how_long() -> None:
    assert load_status(LoadProgress(2**30, 2**32), 10.0).endswith("(25 %) 0:30 left")


def test_decoding_shows_rate_length_and_the_wait_for_the_first_token() -> None:
    assert decode_status(4.81, 1204) == "4.8 tok/s · 1,204 tok"
    assert decode_status(4.81, 1204, 0.834) == "4.8 tok/s · 1,204 tok · first after 0.83 s"
    assert decode_status(4.81, 1204, 85) == "4.8 tok/s · 1,204 tok · first after 1:25"


def test_the_context_is_counted_and_shared() -> None:
    assert context_gauge(31_304, 131_072) == "ctx 31,304/131,072 (24 %)"


@pytest.mark.parametrize(("reason", "end"), [("stop", "5 tok"), ("length", "limit reached"), ("cancelled", "stopped")])
def test_the_end_is_told_when_it_is_not_the_usual_one(reason: FinishReason, end: str) -> None:
    finished = Finished(reason, "", "", (), 10, 0, 5, 1.0, 2.0, 0)
    line = finished_status(finished)
    assert line.startswith("2.0 tok/s · 5 tok")
    assert line.endswith(end)
