"""Products by the kernels for many tokens: every type and instruction set, every number of rows, columns and tokens."""

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.native_library import load_native
from quant.nf4.values import NF4
from quant.tensor import QuantizedTensor
from quant.types import BlockType
from tests.quant.native.row_products import QUANTIZED, TYPES, by_name, exact_product, product, relative_error
from tests.quant.random_weights import random_weights

pytestmark = pytest.mark.usefixtures("isa")

BOUND, FLOAT_BOUND = 0.008, 4e-7  # of activations with eight bits, and of float32
FEW_RESULTS = 4  # errors of a handful spread wider
BLOCK_TOKENS, BLOCK_COLS, FLOAT_BLOCK_COLS = 384, 1024, 256  # of quant/native/src/multiply/many


def bound(block: BlockType) -> float:
    return FLOAT_BOUND if block == NF4 or block.block_weights == 1 else BOUND


def activations(tokens: int, cols: int) -> Tensor:
    return torch.randn(tokens, cols, generator=torch.Generator().manual_seed(3))


def many(x: Tensor, w: QuantizedTensor) -> Tensor:
    return product(x, w, many=True)


def check(x: Tensor, w: QuantizedTensor) -> None:
    y = many(x, w)
    assert y.isfinite().all()
    error = (y.double() - exact_product(x, w)).norm().item()
    spread = FEW_RESULTS if y.numel() < 100 else 1.2
    assert error < bound(w.type) * x.norm().item() * w.rows**0.5 * spread, (tuple(x.shape), w.shape)


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_a_product_is_that_of_the_exact_values(block: BlockType) -> None:
    w, x = random_weights(block, (80, 2048)), activations(64, 2048)
    assert relative_error(many(x, w), exact_product(x, w)) < bound(block)


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_any_number_of_rows(block: BlockType) -> None:
    w, x = random_weights(block, (70, 256)), activations(16, 256)
    for rows in [*range(1, 36), 47, 48, 49, 63, 64, 65, 70]:
        check(x, w.row_range(0, rows))


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_any_number_of_tokens(block: BlockType) -> None:
    w, x = random_weights(block, (33, 256)), activations(BLOCK_TOKENS * 2 + 1, 256)
    for tokens in [*range(1, 27), BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, BLOCK_TOKENS * 2 + 1]:
        check(x[:tokens], w)


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_rows_of_every_length(block: BlockType) -> None:
    step = block.block_weights
    lengths = [step * count for count in range(1, 10)] if step > 1 else [*range(1, 70), 255, 256, 257, 271, 1409]
    lengths += [length for length in (1408, 1536, BLOCK_COLS, BLOCK_COLS + step, 3 * BLOCK_COLS) if length % step == 0]
    x = activations(13, max(lengths))
    for cols in lengths:
        check(x[:, :cols], random_weights(block, (18, cols)))


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_a_result_does_not_depend_on_other_rows_and_tokens(block: BlockType) -> None:
    cols = 1408 if 1408 % block.block_weights == 0 else 1536
    w, x = random_weights(block, (75, cols)), activations(BLOCK_TOKENS + 7, cols)
    together = many(x, w)
    for tokens in ((0, 1), (0, 5), (3, 16), (5, 69), (BLOCK_TOKENS - 2, BLOCK_TOKENS + 3)):
        for rows in ((0, 1), (7, 24), (30, 75)):
            part = many(x[slice(*tokens)], w.row_range(*rows))
            assert torch.equal(part, together[slice(*tokens), slice(*rows)]), (tokens, rows)


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_nothing_is_read_or_written_beyond_the_ends(block: BlockType) -> None:
    cols = 1024 + (block.block_weights if block.block_weights > 1 else 3)
    for rows, tokens in ((1, 1), (17, 5), (31, 13)):
        w = random_weights(block, (rows, cols))
        data = np.full(w.data.size + 2048, 255, dtype=np.uint8)  # NaN in most types
        data[1024:-1024] = w.data
        x = torch.full((tokens + 2, cols), torch.nan)
        x[1:-1] = activations(tokens, cols)
        y = torch.full((tokens * rows + 64,), 7.0)
        arguments = (rows, cols, x[1].data_ptr(), tokens, 1, y[32:].data_ptr())
        load_native().call("k2quant_multiply", block.ggml_id, data[1024:].ctypes.data, *arguments)
        assert torch.equal(y[32:-32].reshape(tokens, rows), many(x[1:-1], w))
        assert (y[:32] == 7).all()
        assert (y[-32:] == 7).all()


@pytest.mark.parametrize("block", QUANTIZED, ids=by_name)
def test_largest_levels_do_not_leave_their_integers(block: BlockType) -> None:
    """All levels at the ends of their range, those of the activations too."""
    cols = 1024
    w = random_weights(block, (32, cols))
    codes = np.random.default_rng(4).integers(0, 256, w.data.size, dtype=np.uint8)
    headers = {"Q4_K": (0, 16), "Q5_K": (0, 16), "Q6_K": (192, 210), "IQ4_XS": (0, 8)}
    start, end = headers.get(block.name, (0, 2))
    for fill in (0, 255, 0x80, 0x7F, None):
        data = (codes if fill is None else np.full_like(codes, fill)).reshape(-1, block.block_bytes)
        data[:, start:end] = w.data.reshape(-1, block.block_bytes)[:, start:end]
        extreme = QuantizedTensor(block, w.shape, data.reshape(-1))
        for x in (torch.full((7, cols), 127.0), torch.full((7, cols), -127.0), activations(7, cols).sign() * 127):
            y, exact = many(x, extreme), exact_product(x, extreme)
            size = x.norm().item() * extreme_size(extreme)
            assert (y.double() - exact).norm().item() <= 1e-6 * size, fill


def extreme_size(w: QuantizedTensor) -> float:
    return exact_product(torch.eye(w.cols), w).norm().item()
