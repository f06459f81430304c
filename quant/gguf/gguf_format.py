"""What a GGUF file is made of: magic, value types and padding, shared by the reader and the writer.

Source: the GGUF specification, version 3 (little endian). Value types carry the specification's own names, as
in "uint32" or "array[string]".
"""

import struct
from dataclasses import dataclass

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4

STRING_ID = 8
ARRAY_ID = 9


@dataclass(frozen=True)
class ScalarType:
    """A fixed-size metadata value. `code` is its letter in `struct` and, with "<", in numpy."""

    name: str
    id: int
    code: str

    @property
    def size_bytes(self) -> int:
        """Bytes of one value."""
        return struct.calcsize("<" + self.code)


SCALAR_TYPES: tuple[ScalarType, ...] = (
    ScalarType("uint8", 0, "B"),
    ScalarType("int8", 1, "b"),
    ScalarType("uint16", 2, "H"),
    ScalarType("int16", 3, "h"),
    ScalarType("uint32", 4, "I"),
    ScalarType("int32", 5, "i"),
    ScalarType("float32", 6, "f"),
    ScalarType("bool", 7, "?"),
    ScalarType("uint64", 10, "Q"),
    ScalarType("int64", 11, "q"),
    ScalarType("float64", 12, "d"),
)

SCALAR_BY_ID = {scalar.id: scalar for scalar in SCALAR_TYPES}
SCALAR_BY_NAME = {scalar.name: scalar for scalar in SCALAR_TYPES}


def align_up(position: int, alignment: int) -> int:
    """The first multiple of `alignment` that is not below `position`."""
    return -(-position // alignment) * alignment
