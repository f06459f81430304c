"""What was typed before, as the prompt goes through it with the arrow keys."""

from collections.abc import Iterable

MAX_ENTRIES = 500


class History:
    """The newest is last. What is in the box when one starts going back is kept for the way forth."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._entries = list(entries)[-MAX_ENTRIES:]
        self._place = len(self._entries)
        self._draft = ""

    def add(self, text: str) -> None:
        """`text` was sent."""
        if not self._entries or self._entries[-1] != text:
            self._entries = [*self._entries, text][-MAX_ENTRIES:]
        self._place = len(self._entries)
        self._draft = ""

    def load(self, entries: Iterable[str]) -> None:
        """What was typed in earlier sessions, before what was typed in this one."""
        self._entries = [*entries, *self._entries][-MAX_ENTRIES:]
        self._place = len(self._entries)

    def back(self, current: str) -> str | None:
        """The entry before; None at the beginning."""
        if self._place == 0:
            return None
        if self._place == len(self._entries):
            self._draft = current
        self._place -= 1
        return self._entries[self._place]

    def forth(self) -> str | None:
        """The entry behind, at last what was being written; None there."""
        if self._place >= len(self._entries):
            return None
        self._place += 1
        return self._draft if self._place == len(self._entries) else self._entries[self._place]
