"""No text gets to steer a terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from k2lite.safe_text import one_line, printable


@given(st.text(st.characters(), max_size=40))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    safe = printable(text)
    assert all(unicodedata.category(character) not in ("Cc", "Cs") or character in "\n\t" for character in safe)
    safe.encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf"]), max_size=40))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_controls_become_visible() -> None:
    assert printable("\x1b[31mred\x07\x7f\x9b") == "␛[31mred␇␡\ufffd"
    assert printable("a\r\nb\tc") == "a\nb\tc"
    assert printable("\u202egnp.exe") == "\ufffdgnp.exe"
    assert printable("👩\u200d💻") == "👩\u200d💻", "joiners make emoji, they are not taken"


def test_one_line_is_one_line() -> None:
    assert one_line("  a\n b\x00 ") == "a b␀"
