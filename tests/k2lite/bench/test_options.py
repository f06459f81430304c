"""What a measurement refuses before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest

from k2lite.bench.options import WARM_UP_TOKENS, BenchOptions
from quant.errors import RequestError


def options(**fields: Any) -> BenchOptions:
    return BenchOptions(path=Path("model.gguf"), **fields)


def test_the_context_holds_the_longest_measurement() -> None:
    assert options(prefill_tokens=(16, 99), decode_tokens=8).capacity == 99
    assert options(prefill_tokens=(16,), decode_tokens=8, depth=40).capacity == 40 + WARM_UP_TOKENS + 8


def test_without_prompts_it_holds_what_is_decoded() -> None:
    assert options(prefill_tokens=(), decode_tokens=8).capacity == WARM_UP_TOKENS + 8


def test_a_context_that_was_asked_for_is_kept() -> None:
    assert options(context_tokens=4096).capacity == 4096


@pytest.mark.parametrize(
    "fields", [{"rounds": 0}, {"decode_tokens": 0}, {"depth": -1}, {"prefill_tokens": (0,)}, {"context_tokens": 100}]
)
def test_what_cannot_be_measured_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        options(**fields)
