"""What computing takes on a card besides weights and cache, and how long a chunk of a prompt may therefore be.

The model says what its parts take (k2lite.card_memory); here is the one rule that turns it into a length, for plans and
for the cards that are really used.
"""

from dataclasses import dataclass

# The links bring each expert once a chunk: twice the length is half the copies.
LONGEST_CHUNK, SHORTEST_CHUNK = 16_384, 512
# What grows with the chunk may take this share of a card's room: there, experts would have their slots.
_CHUNK_SHARE = 1 / 8


@dataclass(frozen=True)
class CardBuffers:
    """Bytes on a card: `fixed` whatever is computed, `token` for each of a chunk, `position` for each of the context.

    Then a part of the chunk is computed: in attention that takes `attention`, and `attended` for each position, up to
    `most_attended` for all, since then heads are taken in turn. Behind it the part takes `other` bytes instead.
    """

    fixed: int
    token: int
    position: int
    other: int
    attention: int
    attended: int
    most_attended: int

    def bytes_of(self, chunk_tokens: int, context_tokens: int) -> int:
        """All of them. No chunk is longer than the context."""
        return self._kept(context_tokens) + self.token * min(chunk_tokens, context_tokens)

    def longest_chunk(self, usable_bytes: int, context_tokens: int) -> int:
        """The power of two, from SHORTEST_CHUNK to LONGEST_CHUNK, that a card of so many bytes has room for: what grows
        with it takes at most an eighth of what the other buffers leave. None is longer than the context needs."""
        room = (usable_bytes - self._kept(context_tokens)) * _CHUNK_SHARE
        chunk = LONGEST_CHUNK
        while chunk > SHORTEST_CHUNK and (chunk // 2 >= context_tokens or chunk * self.token > room):
            chunk //= 2
        return chunk

    def _kept(self, context_tokens: int) -> int:
        attention = self.attention + min(self.attended * context_tokens, self.most_attended)
        return self.fixed + self.position * context_tokens + max(self.other, attention)
