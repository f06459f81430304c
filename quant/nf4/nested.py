"""Double quantization: the factors of NF4 blocks, themselves as bytes with a factor for every 256 of them.

From all factors of a matrix their mean is taken first. What is left indexes the "dynamic" table of 256 values (arXiv
1511.04561), scaled by the largest of a block. A weight takes 4.127 bits then instead of 4.5.

Each factor gets the table's nearest value. bitsandbytes on the CPU looks it up with 16 bits and takes the second
nearest for one factor in a thousand, where both are almost as near.
"""

from dataclasses import dataclass

import numpy as np
import torch

NESTED_BLOCK = 256
_DECADES = 7


@dataclass(frozen=True)
class NestedFactors:
    """`codes` uint8 [n] into `table` float32 [256], `factors` float32 [ceil(n / block)], all of it plus `offset`."""

    codes: np.ndarray
    factors: np.ndarray
    table: np.ndarray
    offset: float
    block: int = NESTED_BLOCK

    def decode(self) -> np.ndarray:
        """The factors of the weights' blocks, float32 [n]."""
        scales = np.repeat(self.factors, self.block)[: self.codes.size]
        with np.errstate(over="ignore", invalid="ignore"):
            values: np.ndarray = self.table[self.codes] * scales + np.float32(self.offset)
        return values


def nest_factors(factors: np.ndarray) -> NestedFactors:
    """Quantize float32 [n]. The mean is added up in float64: it does not depend on the number of threads."""
    table = dynamic_table()
    offset = np.float32(factors.mean(dtype=np.float64))
    rest = factors - offset
    blocks = np.pad(rest, (0, -rest.size % NESTED_BLOCK)).reshape(-1, NESTED_BLOCK)
    largest = np.abs(blocks).max(axis=1)
    # Equal factors leave zeros, which any scale keeps.
    inverse = np.float32(1) / np.where(largest > 0, largest, np.float32(1))
    scaled = (blocks * inverse[:, None]).reshape(-1)[: rest.size]
    limits = (table[:-1] + table[1:]) / np.float32(2)
    codes = np.searchsorted(limits, scaled).astype(np.uint8)
    return NestedFactors(codes, largest, table, float(offset))


def dynamic_table() -> np.ndarray:
    """The 256 values, float32 in rising order.

    Decade d of seven, 10^(d-7) to 10^(d-6), holds 2^d values of either sign: the middles of as many equal steps from
    0.1 to 1 of its end. Zero and one make it 256.
    """
    values = [0.0, 1.0]
    for decade in range(_DECADES):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - _DECADES + 1)
        values += middles.tolist() + (-middles).tolist()
    return np.array(sorted(values), dtype=np.float32)
