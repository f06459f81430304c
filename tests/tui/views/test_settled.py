"""What is handed over while a text streams, and what waits."""

from types import SimpleNamespace

import pytest

import tui.views.settled
from tui.views.settled import LineBreaker, SettledText

MIXED = """# Title

Prose with *marks*, 1. not a list - really.
***bold** start* and 2024 numbers

- one
- two
  more of two

- three
1984 was a year.

1. first
2. second

   still second
Text

| a | b |
|---|---|
| 1 | 2 |
End of it.

```python
- no list
| no table |
x = `1`
```
~~~
``` inside
~~~
* last
"""


def settle(text: str, size: int) -> list[str]:
    """Everything handed over, piece by piece, the end included."""
    settled = SettledText()
    pieces = [settled.push(text[i : i + size]) for i in range(0, len(text), size)]
    return [*pieces, settled.finish()]


def settled_after(text: str) -> tuple[str, str]:
    """What is settled and what waits after `text` came character by character."""
    stream = SettledText()
    return "".join(stream.push(character) for character in text), stream.tail


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
def test_nothing_is_lost_or_changed(size: int) -> None:
    assert "".join(settle(MIXED, size)) == MIXED


@pytest.mark.parametrize("size", [1, 3, 7])
def test_no_list_or_table_is_handed_over_in_two_pieces(size: int) -> None:
    for block in ("- one\n- two\n  more of two\n\n- three\n", "| a | b |\n|---|---|\n| 1 | 2 |\n"):
        assert any(block in piece for piece in settle(MIXED, size))


@pytest.mark.parametrize(
    ("text", "settled", "tail"),
    [
        ("Hello wor", "Hello wor", ""),
        ("Hello\nyou", "Hello\nyou", ""),
        ("-", "", "-"),
        ("--", "--", ""),
        ("1", "", "1"),
        ("12.", "", "12."),
        ("12.5 is", "12.5 is", ""),
        ("12 apples", "12 apples", ""),
        ("`", "", "`"),
        ("`code", "`code", ""),
        ("*", "", "*"),
        ("*emphasis", "*emphasis", ""),
        ("- item", "", "- item"),
        ("- item\n- item\n", "", "- item\n- item\n"),
        ("- item\n\n  more", "", "- item\n\n  more"),
        ("- item\nT", "- item\nT", ""),
        ("- item\n\n1", "", "- item\n\n1"),
        ("| a |\n|--", "", "| a |\n|--"),
        ("```py", "", "```py"),
        ("```py\nx = 1", "```py\n", "x = 1"),
        ("```py\nx = 1\n", "```py\nx = 1\n", ""),
        ("```\n```\nText", "```\n```\nText", ""),
        ("````\n```\n- a\n", "````\n```\n- a\n", ""),
        ("```\n```\n- a\n", "```\n```\n", "- a\n"),
        ("  ", "", "  "),
    ],
)
def test_the_line_between_settled_and_waiting(text: str, settled: str, tail: str) -> None:
    assert settled_after(text) == (settled, tail)


def test_a_long_list_takes_time_in_proportion_to_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    pattern = tui.views.settled._ITEM_OR_ROW
    counting = SimpleNamespace(match=lambda line: (looked_at.append(line), pattern.match(line))[1])
    monkeypatch.setattr(tui.views.settled, "_ITEM_OR_ROW", counting)
    settled = SettledText()
    for number in range(300):
        assert settled.push(f"- item number {number}\n") == ""
    assert settled.push("Done") != ""
    assert 300 <= len(looked_at) < 3 * 300


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_line_longer_than_anyone_reads_is_broken_and_then_counted(size: int) -> None:
    text = "short\n" + "x" * 50_000 + "\n" + "y" * 3001 + "\nend"
    breaker = LineBreaker()
    shown = "".join(breaker.push(text[i : i + size]) for i in range(0, len(text), size)) + breaker.finish()
    first, *broken, second, rest, end = shown.replace("\n\n", "\n").split("\n")
    assert (first, second, rest, end) == ("short", "y" * 3000, "y", "end")
    assert [len(piece) for piece in broken[:-1]] == [3000] * 9
    assert broken[-1] == "x" * 3000 + " … (20,000 characters more in this line: copy or export to have them)"
