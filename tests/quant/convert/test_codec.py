"""A codec knows its size beforehand, takes rows in runs, and reads back what it wrote."""

import numpy as np
import pytest
import torch

from quant.convert.codec import BlockCodec
from quant.encode.encode import encode
from quant.errors import UnsupportedError
from quant.types import block_type


@pytest.mark.parametrize("name", ["F32", "BF16", "Q8_0", "Q4_K", "MXFP4"])
def test_runs_of_rows_follow_each_other(name: str) -> None:
    values = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))
    codec = BlockCodec(block_type(name))
    whole = codec.encode(values, None)
    assert codec.splits_rows and codec.name == name
    assert whole.nbytes == codec.nbytes((6, 256)) == codec.nbytes((2, 3, 256))
    assert np.array_equal(np.concatenate([codec.encode(values[:4], None), codec.encode(values[4:], None)]), whole)
    assert torch.equal(codec.decode(whole, (6, 256))[4:], codec.decode(codec.encode(values[4:], None), (2, 256)))
    assert torch.allclose(codec.decode(whole, (6, 256)), values, atol=1)


def test_importance_reaches_the_encoder() -> None:
    generator = torch.Generator().manual_seed(0)
    values, importance = torch.randn(2, 256, generator=generator), torch.rand(256, generator=generator) + 0.1
    kind = block_type("Q4_K")
    assert np.array_equal(BlockCodec(kind).encode(values, importance), encode(values, kind, importance))
    assert not np.array_equal(BlockCodec(kind).encode(values, None), encode(values, kind, importance))


def test_a_shape_that_blocks_do_not_divide_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Q4_K"):
        BlockCodec(block_type("Q4_K")).nbytes((3, 128))
