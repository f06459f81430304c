"""Control tokens as text: finding them where they are meant, disarming them where they are not.

A rendered prompt mixes text that a template wrote, in which `<|im_end|>` is a command, with text that came from
people and tools, in which it is ten letters. Before rendering, every control text in the latter gets a breaker, a
character that occurs nowhere else; it is dropped again once the commands have been found.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from quant.errors import RequestError

# Private use: the Unicode standard gives these characters no meaning. First the small area, then planes 15 and 16.
_BREAKER_RANGES = ((0xE000, 0xF900), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))
_NEVER = r"(?!)"


class ControlText:
    """Finds the texts of control tokens. `ids` maps each text to its token id."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = dict(ids)
        longest_first = sorted((text for text in ids if text), key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)) or _NEVER)
        self._starts = re.compile(_start_pattern(longest_first) or _NEVER)
        self._sorted = sorted(longest_first)
        self._longest = len(longest_first[0]) if longest_first else 0

    def pieces(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Cut `text` into plain pieces (id None, never empty) and control tokens (with their id)."""
        end = 0
        for match in self._any.finditer(text):
            if match.start() > end:
                yield text[end : match.start()], None
            yield match[0], self._ids[match[0]]
            end = match.end()
        if end < len(text):
            yield text[end:], None

    def break_up(self, text: str, breaker: str) -> str:
        """Put `breaker` into every control text in `text`, and into the head of one at its end.

        The head matters because the next string may bring the rest: two harmless halves make a whole. Only a control
        text that a template begins itself, and lets such a string complete, stays one.
        """
        text = self.break_whole(text, breaker)
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            if self._is_head(text[-size:]):
                text = text[: len(text) - size + 1] + breaker + text[len(text) - size + 1 :]
        return text

    def _is_head(self, text: str) -> bool:
        """Whether a control text begins with `text` and goes on. Such texts follow it in the alphabet."""
        place = bisect_right(self._sorted, text)
        return place < len(self._sorted) and self._sorted[place].startswith(text)

    def break_whole(self, text: str, breaker: str) -> str:
        """Put `breaker` after the first character of every complete control text in `text`."""
        return self._starts.sub(lambda match: match[0] + breaker, text)


def _start_pattern(texts: Iterable[str]) -> str:
    """A pattern for the first character of any of `texts`; it consumes no more, so that overlaps are all found."""
    rests: dict[str, list[str]] = {}
    for text in texts:
        rests.setdefault(text[0], []).append(re.escape(text[1:]))
    return "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())


def pick_breaker(*values: Any) -> str:
    """A private-use character that occurs in none of the strings in `values` (nested dicts and lists).

    Raises RequestError when all 137,468 of them occur.
    """
    used: set[str] = set()

    def note(text: str) -> str:
        used.update(text)
        return text

    map_strings(values, note)
    for first, end in _BREAKER_RANGES:
        for code in range(first, end):
            if chr(code) not in used:
                return chr(code)
    raise RequestError("the messages hold every private-use character of Unicode: remove some of them")


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of nested dicts, lists and tuples with `change` applied to every string, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_strings(key, change): map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change) for item in value]
    return value
