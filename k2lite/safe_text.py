"""Text from a model, a file or an error message, made safe for a terminal."""

_KEPT = "\n\t"

# Escape sequences start with a control character; its picture shows that one was there and starts nothing.
_C0 = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT}
_C1 = dict.fromkeys(range(0x80, 0xA0), "\ufffd")
# These reorder the text around them on terminals that know them: an answer could fake what the program says.
_REORDERING = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_TABLE: dict[int, str | None] = {**_C0, 0x7F: "\u2421", **_C1, **_REORDERING, **_SURROGATES, ord("\r"): None}


def printable(text: str) -> str:
    """`text` without anything a terminal would obey: controls become pictures, carriage returns are dropped."""
    return text.translate(_TABLE)


def one_line(text: str) -> str:
    """`text` on a single line, for error messages and titles."""
    return " ".join(printable(text).split())
