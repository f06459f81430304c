"""Which part of a streamed Markdown text can be shown for good, and which may still change its shape.

Appending to a list or a table mounts it anew, which takes seconds once it is long. So an unfinished one is held back
(the screen shows it as plain text) and handed over in one piece when a line comes that does not belong to it.
"""

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM_OR_ROW = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])(?:\s|$)| {0,3}\|")
_INDENTED_OR_BLANK = re.compile(r"\s|$")
# Beginnings of a line from which it cannot be told yet what the line will be.
_UNDECIDED = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)]?|[`~]+)?$| {0,3}(?:`{3}|~{3})")


def fence_marker(line: str) -> str:
    """The backticks or tildes with which `line` opens a fence; nothing when it opens none."""
    opening = _FENCE.match(line)
    return opening[1] if opening else ""


def closes_fence(line: str, marker: str) -> bool:
    """Whether `line` closes a fence that `marker` opened: a row of at least as many of them and nothing else."""
    row = line.strip()
    return row.startswith(marker) and not row.strip(marker[0])


class SettledText:
    """Takes a text in pieces. `tail` is what is held back."""

    def __init__(self) -> None:
        self.tail = ""
        self._fence = ""  # the marker that opened a code fence, while inside it
        self._mid_line = False  # the tail continues a line whose beginning is settled
        self._scanned = 0  # so many characters of the tail are known to belong to one list or table

    def push(self, text: str) -> str:
        """Add `text`; returns what is settled now and was not before."""
        self.tail += text
        settled = ""
        while length := self._settled_length():
            settled += self.tail[:length]
            self.tail = self.tail[length:]
        return settled

    def finish(self) -> str:
        """The text has ended: everything held back is settled."""
        settled, self.tail = self.tail, ""
        return settled

    def _settled_length(self) -> int:
        """How much of the beginning of the tail is the next settled piece; 0 when all of it must wait."""
        line, line_break, _ = self.tail.partition("\n")
        length, complete = len(line) + len(line_break), bool(line_break)
        if self._mid_line:
            self._mid_line = not complete
            return length
        if self._fence:
            return self._fence_line(line) if complete else 0
        if not complete and _UNDECIDED.match(line):
            return 0
        if marker := fence_marker(line):
            self._fence = marker
            return length
        if self._scanned or _ITEM_OR_ROW.match(line):
            return self._block_length()
        self._mid_line = not complete
        return length

    def _fence_line(self, line: str) -> int:
        """A whole line inside a fence, perhaps the one that closes it."""
        if closes_fence(line, self._fence):
            self._fence = ""
        return len(line) + 1

    def _block_length(self) -> int:
        """The length of the list or table that the tail begins with, once a line follows that is not part of it."""
        while self._scanned < len(self.tail):
            line, line_break, _ = self.tail[self._scanned :].partition("\n")
            if not line_break and _UNDECIDED.match(line):
                return 0
            if self._scanned and not (_ITEM_OR_ROW.match(line) or _INDENTED_OR_BLANK.match(line)):
                length, self._scanned = self._scanned, 0
                return length
            if not line_break:
                return 0
            self._scanned += len(line) + 1
        return 0


_LONGEST_LINE_CHARACTERS = 3000
_SHOWN_OF_A_LINE_CHARACTERS = 30_000


class LineBreaker:
    """Makes lines bearable for the screen: a new paragraph after thousands of characters, and of a line that goes on
    much longer (somebody's base64, a minified file) only the beginning, with how much follows."""

    def __init__(self) -> None:
        self._length = 0  # of the line by now
        self._hidden = 0  # so many characters of it are not shown

    def push(self, text: str) -> str:
        """What of `text` is shown, with breaks put in where they are needed."""
        if "\n" not in text and self._length + len(text) <= _LONGEST_LINE_CHARACTERS:
            self._length += len(text)
            return text
        first, *lines = text.split("\n")
        shown = [self._more(first)]
        for line in lines:
            shown.append(self.finish() + "\n" + self._more(line))
        return "".join(shown)

    def finish(self) -> str:
        """The line has ended: what is to be said about it."""
        hidden, self._hidden, self._length = self._hidden, 0, 0
        return f" … ({hidden:,} characters more in this line: copy or export to have them)" if hidden else ""

    def _more(self, text: str) -> str:
        room = max(0, _SHOWN_OF_A_LINE_CHARACTERS - self._length)
        text, self._hidden = text[:room], self._hidden + len(text) - len(text[:room])
        pieces = []
        while text:
            end = _LONGEST_LINE_CHARACTERS - self._length % _LONGEST_LINE_CHARACTERS
            if self._length and end == _LONGEST_LINE_CHARACTERS:
                pieces.append("\n\n")
            pieces.append(text[:end])
            self._length += len(text[:end])
            text = text[end:]
        return "".join(pieces)
