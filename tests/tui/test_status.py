"""The status line in words."""

import pytest

from k2lite.events import Finished, FinishReason, LoadProgress, PrefillProgress
from tui.status import decode_status, finished_status, load_status, prefill_status


def test_loading_and_preparing_are_told_apart() -> None:
    assert load_status(LoadProgress(2**30, 2**32)) == "loading 1.00 GiB of 4.00 GiB (25 %)"
    assert load_status(LoadProgress(0, 0, "quantize")) == "preparing the demo model (once) 0 B of 0 B (0 %)"


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (PrefillProgress(0, 100, 0, 0.0), "prompt 0/100 (0 %)"),
        (PrefillProgress(40, 100, 40, 0.0), "prompt 40/100 (40 %) 40 of them kept"),
        (PrefillProgress(60, 100, 40, 2.0), "prompt 60/100 (60 %) 10.0 tok/s ETA 0:04"),
    ],
)
def test_the_rate_of_a_prompt_leaves_out_what_was_kept(progress: PrefillProgress, line: str) -> None:
    assert prefill_status(progress) == line


def test_decoding_shows_rate_length_and_context() -> None:
    assert decode_status(4.81, 1204, 31_304, 131_072) == "4.8 tok/s · 1,204 tok · ctx 31,304/131,072 (24 %)"


@pytest.mark.parametrize(("reason", "end"), [("stop", "(1 %)"), ("length", "limit reached"), ("cancelled", "stopped")])
def test_the_end_is_told_when_it_is_not_the_usual_one(reason: FinishReason, end: str) -> None:
    finished = Finished(reason, "", "", (), 10, 0, 5, 1.0, 2.0, 0)
    line = finished_status(finished, 1000)
    assert line.startswith("2.0 tok/s · 5 tok · ctx 15/1,000")
    assert line.endswith(end) or (reason == "stop" and line.endswith("(2 %)"))
