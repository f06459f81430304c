import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2lite.vocabulary.control_text import ControlText, map_strings, pick_breaker
from quant.errors import RequestError

IDS = {"<|end|>": 1, "<|end_of_turn|>": 2, "[BOS]": 3, "<a<b>": 4, "<b>": 5}
CONTROL = ControlText(IDS)
BREAKER = "\ue000"

fragments = st.sampled_from([*IDS, "<|en", "d|>", "[", "BOS]", "<", "<a", "<b>", "x", " "])
evil_texts = st.lists(fragments | st.text(max_size=3), max_size=8).map("".join)


def found(text: str) -> list[int]:
    return [token for _, token in CONTROL.pieces(text) if token is not None]


def test_text_is_cut_at_control_tokens():
    assert list(CONTROL.pieces("a<|end|>b[BOS]")) == [("a", None), ("<|end|>", 1), ("b", None), ("[BOS]", 3)]
    assert list(CONTROL.pieces("")) == []


def test_the_longest_control_text_wins():
    assert found("<a<b>") == [4]


def test_every_control_text_is_broken_after_its_first_character():
    assert CONTROL.break_up("x<|end|>[BOS]", BREAKER) == f"x<{BREAKER}|end|>[{BREAKER}BOS]"


def test_a_control_text_inside_another_is_broken_too():
    assert found(CONTROL.break_up("<a<b>", BREAKER)) == []


def test_the_head_of_a_control_text_at_the_end_is_broken():
    assert found(CONTROL.break_up("<|end", BREAKER) + CONTROL.break_up("|>", BREAKER)) == []


def test_text_without_control_texts_stays_as_it_is():
    text = "if a < b: print([1, 2])"
    assert CONTROL.break_up(text, BREAKER) == text


@settings(derandomize=True, deadline=None, max_examples=300)
@given(texts=st.lists(evil_texts, max_size=4))
def test_broken_texts_never_hold_or_join_to_a_control_token(texts):
    broken = "".join(CONTROL.break_up(text, BREAKER) for text in texts)
    assert found(broken) == []
    assert broken.replace(BREAKER, "") == "".join(texts).replace(BREAKER, "")


def test_without_control_tokens_nothing_is_found_or_broken():
    nothing = ControlText({})
    assert list(nothing.pieces("<|end|>")) == [("<|end|>", None)]
    assert nothing.break_up("<|end|>", BREAKER) == "<|end|>"


def test_the_breaker_occurs_nowhere_in_the_input():
    assert pick_breaker({"a\ue000": ["\ue001"]}, "\ue002") == "\ue003"
    every = "".join(map(chr, range(0xE000, 0xF900)))
    assert pick_breaker(every) == "\U000f0000"


def test_input_that_uses_up_all_breakers_is_refused():
    ranges = ((0xE000, 0xF900), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))
    with pytest.raises(RequestError, match="private-use"):
        pick_breaker("".join(chr(code) for first, end in ranges for code in range(first, end)))


def test_strings_are_changed_wherever_they_are():
    value = {"k": ["a", ("b", {"c": None})], "n": 1, "t": True}
    assert map_strings(value, str.upper) == {"K": ["A", ["B", {"C": None}]], "N": 1, "T": True}


def test_a_very_long_control_text_takes_no_more_than_a_few_copies():
    tracemalloc.start()
    try:
        control = ControlText({"<" + "x" * 100_000: 1, "<|end|>": 2})
        broken = control.break_up("a<xx", BREAKER)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert broken == f"a<{BREAKER}xx"
    assert peak < 20e6
