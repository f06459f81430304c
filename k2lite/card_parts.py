"""How much of a chunk a card computes at a time, so that what it takes beside the stream does not grow with the chunk.

Whoever plans a card's memory reads the same figures; nothing is loaded for that.
"""

# Keys and values of as many heads at a time as take this many numbers (256 MiB of bfloat16).
SCRATCH_VALUES = 128 << 20
# The same for scores in latent space (128 MiB of float32).
SCORE_VALUES = 32 << 20
# So many tokens at a time are routed and handed over.
PART_TOKENS = 1024
# Tokens whose logits are on the card at a time.
LOGIT_TOKENS = 128
# Values between the two products of a feed-forward block.
_FEED_FORWARD_VALUES = 1 << 22


def feed_forward_tokens(width: int) -> int:
    """Tokens at a time in a feed-forward block of this width: for fewer, decoding its weights would take longer than
    multiplying them."""
    return max(512, _FEED_FORWARD_VALUES // width)
