"""How much the kernels for cards decode and compute at a time: what they take beside weights and activations.

The kernels and whoever plans a card's memory read the same figures; neither Triton nor torch is needed for that.
"""

# Plain numbers of gate and up of some experts at a time: 512 MiB of bfloat16.
EXPERT_WEIGHTS = 1 << 28
# Of any other matrix: 128 MiB of bfloat16.
PIECE_WEIGHTS = 1 << 26
# Of what experts make of their tokens: 128 MiB of float32.
PRODUCT_VALUES = 1 << 25


def experts_together(ff: int, hidden: int) -> int:
    """How many experts of this shape are plain numbers at a time, one at least."""
    return max(1, EXPERT_WEIGHTS // (2 * ff * hidden))


def places_together(hidden: int) -> int:
    """How many pairs of a token and an expert are multiplied at a time, one at least."""
    return max(1, PRODUCT_VALUES // hidden)
