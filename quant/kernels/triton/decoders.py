"""The table of decoders: how the words of each type's blocks become weights.

A word holds four weights that follow each other, one to a byte, and four more in the other nibbles, `span` words
further on. A new type is a new file with `words` and one entry here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quant.kernels.triton import iq4_xs, q4_0, q4_k, q5_0, q5_k, q6_k, q8_0
from quant.types import BlockType, block_type


@dataclass(frozen=True)
class Decoder:
    """One type. A block has `block_words` words in runs of `run_words`; a run shares its scales and is one thread's.

    `words` is a Triton function of (row, block, run, place, mask): pointers to the bytes of rows, and the numbers of
    block, run and word in the run, along dimensions 0, 2, 3 and 4 of five. It returns bytes of the low and of the
    high nibbles (`bits` may be set in each), scales and minima of both: a weight is scale * byte - minimum.

    `span` words of low nibbles are followed by the same words' high nibbles; with `halves` 1 there are no second ones.
    """

    type: BlockType
    words: Callable[..., Any]
    block_words: int
    run_words: int
    span: int
    halves: int
    bits: int

    def arguments(self, cols: int) -> dict[str, Any]:
        """What a kernel needs to know to decode rows of `cols` weights."""
        return {
            "WORDS": self.words,
            "COLS": cols,
            "ROW_BYTES": self.type.row_bytes(cols),
            "BLOCK": self.type.block_weights,
            "BLOCK_WORDS": self.block_words,
            "RUN": self.run_words,
            "SPAN": self.span,
            "HALVES": self.halves,
            "BITS": self.bits,
        }


DECODERS: dict[BlockType, Decoder] = {
    decoder.type: decoder
    for decoder in (
        Decoder(block_type("Q4_K"), q4_k.words, 32, 4, span=8, halves=2, bits=4),
        Decoder(block_type("Q5_K"), q5_k.words, 32, 4, span=8, halves=2, bits=5),
        Decoder(block_type("Q6_K"), q6_k.words, 32, 1, span=16, halves=2, bits=6),
        Decoder(block_type("Q8_0"), q8_0.words, 8, 1, span=8, halves=1, bits=8),
        Decoder(block_type("Q4_0"), q4_0.words, 4, 1, span=4, halves=2, bits=4),
        Decoder(block_type("Q5_0"), q5_0.words, 4, 1, span=4, halves=2, bits=5),
        Decoder(block_type("IQ4_XS"), iq4_xs.words, 32, 2, span=4, halves=2, bits=8),
    )
}

