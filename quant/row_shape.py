"""A tensor's shape as rows: the last dimension is a row, and all others count rows."""

import math


class RowShaped:
    """Whatever has a numpy `shape`, slowest dimension first. A scalar is one row of one weight."""

    __slots__ = ()
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """All dimensions but the last, flattened; 1 for a vector."""
        return math.prod(self.shape[:-1])

    @property
    def cols(self) -> int:
        """Weights in a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def weights(self) -> int:
        """Number of values."""
        return math.prod(self.shape)
