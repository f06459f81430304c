"""The printable alphabet of byte-level BPE: one visible character for each of the 256 byte values.

GPT-2 introduced it so that a token of any bytes is a piece of ordinary text; `tokenizer.json` and GGUF write tokens
in it. Bytes that print in Latin-1 stand for themselves, the others follow from U+0100 on in byte order.
"""

from functools import cache


@cache
def byte_to_character() -> tuple[str, ...]:
    """The character of each byte value, 256 entries."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return tuple(chr(byte) if byte in printable else chr(0x100 + hidden.index(byte)) for byte in range(256))


@cache
def _to_latin1() -> dict[int, int]:
    return {ord(character): byte for byte, character in enumerate(byte_to_character())}


@cache
def _from_latin1() -> dict[int, str]:
    return dict(enumerate(byte_to_character()))


def printable_from_bytes(data: bytes) -> str:
    """Write bytes in the printable alphabet, one character per byte."""
    return data.decode("latin-1").translate(_from_latin1())


def bytes_from_printable(text: str) -> bytes:
    """The bytes that `text` stands for; text with characters outside the alphabet is its own UTF-8 form."""
    table = _to_latin1()
    if all(ord(character) in table for character in text):
        return text.translate(table).encode("latin-1")
    return text.encode("utf-8")
