"""The table of decoders: how the words of each type's blocks become weights.

A word becomes one or more words of bytes: four weights that follow each other in each. A new type is a new file with
`words` and one entry here.
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
    block, run and word in the run: [entries, 1], [entries, 1] and [1, run_words]. It returns `parts` words of bytes
    (the nibbles, low ones first, where there are two), the block's scale, and for each part a factor, int32, and a
    minimum, float32. A weight is scale * factor * (byte - `zero`) - minimum; bytes are `signed` or not, and without
    `minima` those are not looked at. factor * (byte - zero) * 32767, summed over the run's bytes, must fit 31 bits.

    Weights come in stretches: `span` words' first parts, then the same words' second parts, and so on.
    """

    type: BlockType
    words: Callable[..., Any]
    block_words: int
    run_words: int
    span: int
    parts: int
    signed: bool = False
    zero: int = 0
    minima: bool = False

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
            "PARTS": self.parts,
            "SIGNED": self.signed,
            "ZERO": self.zero,
            "MINIMA": self.minima,
        }


DECODERS: dict[BlockType, Decoder] = {
    decoder.type: decoder
    for decoder in (
        Decoder(block_type("Q4_K"), q4_k.words, 32, 4, span=8, parts=2, minima=True),
        Decoder(block_type("Q5_K"), q5_k.words, 32, 4, span=8, parts=2, minima=True),
        Decoder(block_type("Q6_K"), q6_k.words, 16, 1, span=8, parts=4, zero=32),
        Decoder(block_type("Q8_0"), q8_0.words, 8, 1, span=8, parts=1, signed=True),
        Decoder(block_type("Q4_0"), q4_0.words, 4, 1, span=4, parts=2, zero=8),
        Decoder(block_type("Q5_0"), q5_0.words, 4, 1, span=4, parts=2, zero=16),
        Decoder(block_type("IQ4_XS"), iq4_xs.words, 32, 2, span=4, parts=2, signed=True),
    )
}
