"""Double quantization against bitsandbytes."""

import numpy as np
import pytest
import torch

from quant.nf4.nested import NestedFactors, dynamic_table, nest_factors
from quant.nf4.values import encode_nf4


def factors_of(blocks: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(blocks)
    values = torch.randn(blocks, 64, generator=generator) * torch.rand(blocks, 1, generator=generator)
    return encode_nf4(values)[1]


def test_the_table_is_that_of_bitsandbytes() -> None:
    from bitsandbytes.functional import create_dynamic_map

    assert np.array_equal(dynamic_table(), create_dynamic_map().numpy())


@pytest.mark.parametrize("blocks", [2, 255, 256, 300, 20_000])
def test_factors_become_those_of_bitsandbytes(blocks: int) -> None:
    from bitsandbytes.functional import quantize_blockwise

    factors = factors_of(blocks)
    nested = nest_factors(factors)
    assert nested.offset == pytest.approx(float(factors.astype(np.float64).mean()), rel=1e-7)
    rest = torch.from_numpy(factors) - nested.offset
    codes, state = quantize_blockwise(rest, blocksize=256)
    assert np.array_equal(nested.factors, state.absmax.numpy())
    assert (nested.codes != codes.numpy()).mean() < 0.01
    # bitsandbytes on the CPU finds the nearest value with 16 bits: where it differs, it is hardly farther away.
    ours, theirs = nested.decode(), NestedFactors(codes.numpy(), nested.factors, nested.table, nested.offset).decode()
    farther = np.abs(theirs - factors) - np.abs(ours - factors)
    assert farther.min() > -1e-6
    assert farther.max() < 2**-14 * nested.factors.max()


@pytest.mark.parametrize("blocks", [1, 256, 1000])
def test_bitsandbytes_reads_the_same_factors(blocks: int) -> None:
    from bitsandbytes.functional import QuantState, dequantize_blockwise

    nested = nest_factors(factors_of(blocks))
    state = QuantState(
        absmax=torch.from_numpy(nested.factors),
        code=torch.from_numpy(nested.table),
        blocksize=256,
        dtype=torch.float32,
    )
    read = dequantize_blockwise(torch.from_numpy(nested.codes), state) + torch.tensor(nested.offset)
    assert np.array_equal(nested.decode(), read.numpy())


def test_equal_factors_are_kept() -> None:
    nested = nest_factors(np.full(300, 0.75, dtype=np.float32))
    assert (nested.decode() == 0.75).all()


def test_the_offset_does_not_depend_on_threads() -> None:
    factors, before = factors_of(200_000), torch.get_num_threads()
    offsets = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            offsets.add(nest_factors(factors).offset)
    finally:
        torch.set_num_threads(before)
    assert len(offsets) == 1
