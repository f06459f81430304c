"""How long a chunk of a prompt may be for what it takes in RAM: one rule, for plans and for budgets in use.

A vector is one token's stream, hidden_size floats.
"""

# Attention is computed in parts of so many tokens, of which a chunk is a whole number.
ATTENTION_TOKENS = 512
# Activations of a token that are there at a time, in vectors: the stream, its norm, the experts' sum,
# the shared expert's output, and one that is being made.
VECTORS_OF_A_TOKEN = 5
# For each card that experts are sent to: pinned, what it is given in 16 bits and its sums, for those in its slots and
# for those that are sent; and the rows that are picked for it.
VECTORS_OF_A_CARD = 4
# A chunk may keep this share of the budget busy with its activations.
_CHUNK_SHARE = 0.1


def token_bytes(vector_bytes: int, cards: int) -> int:
    """Activations of a token in RAM, beside so many cards."""
    return vector_bytes * (VECTORS_OF_A_TOKEN + VECTORS_OF_A_CARD * cards)


def chunk_in_ram(budget_bytes: int, vector_bytes: int, cards: int, most: int) -> int:
    """As many tokens as their activations have room for in a tenth of the budget, in whole parts of the attention, one
    at least. At most `most`."""
    fitting = int(budget_bytes * _CHUNK_SHARE) // token_bytes(vector_bytes, cards)
    return max(ATTENTION_TOKENS, min(most, fitting) // ATTENTION_TOKENS * ATTENTION_TOKENS)
