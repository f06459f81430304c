"""Products of rows are those of the weights' exact values, for every type, instruction set and number of tokens."""

import pytest
import torch

from quant.native_library import load_native
from quant.nf4.values import NF4
from quant.types import BlockType
from tests.quant.native.row_products import TYPES, by_name, exact_product, product, relative_error, serves
from tests.quant.random_weights import random_weights

pytestmark = pytest.mark.usefixtures("isa")

TOKENS = range(1, 9)
BOUND = 0.008  # of activations with eight bits; float weights are multiplied with float activations
FLOAT_BOUND = 3e-7
FEW_RESULTS = 4  # errors of a handful spread wider


def is_float(block: BlockType) -> bool:
    return block == NF4 or block.block_weights == 1


def bound(block: BlockType) -> float:
    return FLOAT_BOUND if is_float(block) else BOUND


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(19, 2304, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_a_product_is_that_of_the_exact_values(block: BlockType, x: torch.Tensor) -> None:
    w = random_weights(block, (37, 2048))
    assert serves(block)
    for tokens in TOKENS:
        assert relative_error(product(x[:tokens, :2048], w), exact_product(x[:tokens, :2048], w)) < bound(block), tokens


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_rows_of_every_length(block: BlockType, x: torch.Tensor) -> None:
    step = block.block_weights
    lengths = [step * count for count in range(1, 10)] if step > 1 else [*range(1, 70), 100, 1000, 1407, 1409]
    lengths += [length for length in (1408, 1536, 1792) if length % step == 0]
    for cols in lengths:
        w = random_weights(block, (5, cols))
        for tokens in (1, 3, 8):
            part = x[:tokens, :cols].contiguous()
            error = (product(part, w).double() - exact_product(part, w)).norm().item()
            assert error < bound(block) * part.norm().item() * 5**0.5 * FEW_RESULTS, (cols, tokens)


@pytest.mark.parametrize("start", [18432, 20480])
@pytest.mark.parametrize("block", [block for block in TYPES if not is_float(block)], ids=by_name)
def test_long_rows(block: BlockType, start: int) -> None:
    cols = start + 32 if block.block_weights == 32 else start + 256
    w = random_weights(block, (37, cols))
    x = torch.randn(1, cols, generator=torch.Generator().manual_seed(6))
    assert relative_error(product(x, w), exact_product(x, w)) < bound(block)


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_a_row_and_a_token_give_the_same_alone_as_among_others(block: BlockType, x: torch.Tensor) -> None:
    w = random_weights(block, (7, 512))
    together = product(x[:8, :512], w)
    for token in range(8):
        alone = torch.cat([product(x[token : token + 1, :512], w.row_range(row, row + 1)) for row in range(7)], dim=1)
        assert torch.allclose(alone[0], together[token], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_any_number_of_tokens(block: BlockType, x: torch.Tensor) -> None:
    w = random_weights(block, (3, 256))
    for tokens in (9, 16, 19):
        part = x[:tokens, :256].contiguous()
        y = product(part, w)
        assert y.shape == (tokens, 3)
        assert relative_error(y, exact_product(part, w)) < bound(block)


def test_nothing_is_done_for_no_tokens_and_no_rows() -> None:
    for rows, tokens in ((0, 1), (1, 0), (0, 0)):
        assert load_native().call("k2quant_multiply", 12, 4096, rows, 256, 4096, tokens, 0, 4096)


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0, 90.0, 200.0, 1e6])
def test_silu_times_up(size: float) -> None:
    generator = torch.Generator().manual_seed(5)
    gate = (torch.rand(1003, generator=generator) * 2 - 1) * size
    up, expected = torch.randn(1003, generator=generator), gate.double()
    expected = expected * torch.sigmoid(expected) * up.double()
    assert load_native().call("k2quant_gated", gate.data_ptr(), up.data_ptr(), 1003)
    assert torch.allclose(gate.double(), expected, rtol=1e-6, atol=1e-36)


def test_silu_of_what_is_no_number() -> None:
    gate, up = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0, 0.0]), torch.tensor([1.0, 1, 1, torch.nan, 2])
    expected = torch.nn.functional.silu(gate) * up
    assert load_native().call("k2quant_gated", gate.data_ptr(), up.data_ptr(), 5)
    assert torch.allclose(gate, expected, equal_nan=True)
