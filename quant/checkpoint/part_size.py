"""How much of a tensor is read at once: enough to be worth a request, little enough for little memory."""

# 64 MiB as float32. One expert's matrix of Kimi K2 or DeepSeek-V3 (14.7 million weights) is a part of its own.
PART_WEIGHTS = 1 << 24
# Rows that share the factors of an FP8 checkpoint; parts begin where these do.
_STEP_ROWS = 128


def rows_in_part(rows: int, cols: int) -> int:
    """Rows of a part: all when they fit, else a multiple of 128, which may exceed the size by what one step takes."""
    if rows * cols <= PART_WEIGHTS:
        return rows
    return min(rows, max(_STEP_ROWS, PART_WEIGHTS // cols // _STEP_ROWS * _STEP_ROWS))
