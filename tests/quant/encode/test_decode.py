"""Blocks become the floats that ggml makes of them too."""

import warnings

import numpy as np
import pytest
import torch

from quant.encode.decode import dequantize, dequantize_rows
from quant.ggml_library import CONVERT_ROWS, load_ggml
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType, block_type
from tests.quant.random_weights import random_weights

# A block of INT4 codes -7..7, 0, then 7, -7, 6, -6 ... 0, -8 with scale 0.0020294189453125, packed as Q4_0.
GOLDEN_BLOCK = bytes.fromhex("2818f112e324d536c748b95aab6c9d7e8f08")
GOLDEN_CODES = [*range(-7, 8), 0, 7, -7, 6, -6, 5, -5, 4, -4, 3, -3, 2, -2, 1, -1, 0, -8]
GOLDEN_SCALE = 0.0020294189453125


def ggml_values(w: QuantizedTensor) -> torch.Tensor:
    """ggml's own decoding. It has none for float32."""
    if w.type.name == "F32":
        return torch.from_numpy(w.data.view(np.float32).copy()).reshape(w.shape)
    values = torch.empty(w.shape)
    CONVERT_ROWS(load_ggml().traits(w.type).to_float)(w.address, values.data_ptr(), values.numel())
    return values


@pytest.mark.parametrize("block", BLOCK_TYPES, ids=str)
def test_every_type_decodes_as_in_ggml(block: BlockType) -> None:
    w = random_weights(block, (2, 3, 512))
    values = dequantize(w)
    assert values.dtype == torch.float32
    assert values.shape == (2, 3, 512)
    assert torch.equal(values, ggml_values(w))
    assert 0.01 < float(values.std()) < 10


def test_the_golden_block_decodes_to_its_codes() -> None:
    w = QuantizedTensor(block_type("Q4_0"), (1, 32), np.frombuffer(GOLDEN_BLOCK, dtype=np.uint8))
    assert dequantize(w)[0].tolist() == [GOLDEN_SCALE * code for code in GOLDEN_CODES]


@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0"])
def test_the_values_are_a_copy(name: str) -> None:
    w = random_weights(block_type(name), (2, 32))
    before = w.data.copy()
    dequantize(w).zero_()
    dequantize_rows(w, [0]).zero_()
    assert np.array_equal(w.data, before)


@pytest.mark.parametrize("name", ["F32", "BF16", "Q4_K", "Q6_K"])
def test_rows_come_in_the_order_asked_for(name: str) -> None:
    w = random_weights(block_type(name), (9, 256))
    ids = torch.tensor([8, 0, 3, 3])
    assert torch.equal(dequantize_rows(w, ids), dequantize(w)[ids])


def test_no_rows_are_an_empty_tensor() -> None:
    rows = dequantize_rows(random_weights(block_type("Q4_K"), (4, 512)), torch.empty(0, dtype=torch.int64))
    assert rows.shape == (0, 512)


@pytest.mark.parametrize("ids", [[-1], [0, 4]])
def test_rows_outside_are_refused(ids: list[int]) -> None:
    with pytest.raises(IndexError, match="of a tensor of 4 rows"):
        dequantize_rows(random_weights(block_type("Q8_0"), (4, 32)), ids)


def test_damaged_scales_decode_without_a_warning() -> None:
    block = block_type("Q4_K")
    damaged = QuantizedTensor(block, (1, 256), np.full(block.row_bytes(256), 0x7C, dtype=np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not torch.isfinite(dequantize(damaged)).all()
        assert not torch.isfinite(dequantize_rows(damaged, [0])).all()
