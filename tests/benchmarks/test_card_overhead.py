"""The benchmark of what the host does beside a card, with next to no work."""

import json
import sys

import pytest

from benchmarks import card_overhead
from quant.native_library import LIBRARY

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the native library was not built")


@pytest.mark.parametrize(("by", "calls"), [("native", 1), ("Python", 61)])
def test_a_token_is_one_native_call_or_one_for_each_layer(
    by: str, calls: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--hidden", "256", "--expert-width", "256", "--tokens", "2", "--shares", "0.5", "--by", by]
    monkeypatch.setattr(sys, "argv", ["card_overhead", *small])
    assert card_overhead.main() == 0
    figure = json.loads(capsys.readouterr().out)
    assert figure["native_calls"] == calls and figure["layers"] == 61
    assert 0 < figure["outside_of_native_calls"]["median"] <= figure["outside_of_products"]["median"]
