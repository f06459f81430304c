"""Text as it is, in pieces small enough that adding to it costs the same however long it has become."""

from textual.containers import Vertical
from textual.widgets import Static

from k2lite.safe_text import printable

_PIECE_CHARACTERS = 3000


class PlainText(Vertical):
    """Shows text without markup. `append` adds to the last piece; nothing that stands is drawn anew."""

    DEFAULT_CSS = """
    PlainText { height: auto; }
    PlainText > Static { height: auto; width: 1fr; }
    """

    def __init__(self, text: str = "", classes: str | None = None) -> None:
        self._pieces = split_pieces(printable(text))
        super().__init__(*(Static(piece, markup=False) for piece in self._pieces), classes=classes)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._pieces)

    async def append(self, text: str) -> None:
        """Add `text`, made printable."""
        pieces = split_pieces((self._pieces.pop() if self._pieces else "") + printable(text))
        shown = list(self.query_children(Static))
        if shown and pieces:
            shown[-1].update(pieces[0])
            new = pieces[1:]
        else:
            new = pieces
        self._pieces += pieces
        if new:
            await self.mount_all([Static(piece, markup=False) for piece in new])


def split_pieces(text: str) -> list[str]:
    """`text` in pieces that end at a line break where there is one in reach."""
    pieces = []
    while len(text) > _PIECE_CHARACTERS:
        end = text.rfind("\n", _PIECE_CHARACTERS // 2, _PIECE_CHARACTERS) + 1 or _PIECE_CHARACTERS
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text] if text else pieces


def shortened(text: str, limit: int = _PIECE_CHARACTERS) -> str:
    """The beginning of a long text, with how much there is in all."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}…\n({len(text):,} characters in all: copy or export to have them)"
