"""No product is less exact than ggml's on the same input, and what is no number shows in the result."""

from collections.abc import Callable
from math import isnan

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.encode.encode import encode
from quant.nf4.values import NF4, encode_nf4, to_blocks
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type
from tests.quant.native.row_products import (
    QUANTIZED,
    TYPES,
    by_name,
    exact_product,
    ggml_product,
    product,
    relative_error,
)
from tests.quant.random_weights import random_weights

pytestmark = pytest.mark.usefixtures("isa")

GGML_TYPES = tuple(block for block in TYPES if block != NF4)
ROUNDING = 1e-6  # of float32, where activations are exact: our offsets cost some units more
LUCK = 1.004  # where levels of both are the same, as around outliers, the rest is chance
COLS = 1024
TOKENS = 100  # rows may all be alike: then the tokens alone make the average
SCALE_BYTES = {"Q4_K": 0, "Q5_K": 0, "Q6_K": 208, "IQ4_XS": 0, "Q8_0": 0, "Q4_0": 0, "Q5_0": 0}  # where d lies


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_outliers(tokens: int, cols: int) -> Tensor:
    x = torch.randn(tokens, cols, generator=generator(4))
    x[:, ::97] *= 300
    return x


ACTIVATIONS: dict[str, Callable[[int, int], Tensor]] = {
    "random": lambda n, cols: torch.randn(n, cols, generator=generator(1)),
    "uniform": lambda n, cols: torch.rand(n, cols, generator=generator(2)),
    "constant": lambda n, cols: torch.full((n, cols), 0.37),
    "outliers": with_outliers,
    "sparse": lambda n, cols: torch.randn(n, cols, generator=generator(5)) * (torch.arange(cols) % 50 == 7),
    "huge": lambda n, cols: torch.randn(n, cols, generator=generator(6)) * 1e30,
    "tiny": lambda n, cols: torch.randn(n, cols, generator=generator(7)) * 1e-30,
    "nearly denormal": lambda n, cols: torch.randn(n, cols, generator=generator(8)) * 1e-36,
    "denormal": lambda n, cols: torch.randn(n, cols, generator=generator(9)) * 1e-40,
    "zero": lambda n, cols: torch.zeros(n, cols),
}
WEIGHTS: dict[str, Callable[[int, int], Tensor]] = {
    "random": lambda rows, cols: torch.randn(rows, cols, generator=generator(11)),
    "constant": lambda rows, cols: torch.full((rows, cols), -0.2),
    "huge": lambda rows, cols: torch.randn(rows, cols, generator=generator(12)) * 9000,
    "tiny": lambda rows, cols: torch.randn(rows, cols, generator=generator(13)) * 1e-4,
    "denormal": lambda rows, cols: torch.randn(rows, cols, generator=generator(14)) * 1e-6,
    "zero": lambda rows, cols: torch.zeros(rows, cols),
    "some zero rows": lambda rows, cols: (
        torch.randn(rows, cols, generator=generator(15)) * (torch.arange(rows) % 3)[:, None]
    ),
}


def encoded(values: Tensor, block: BlockType) -> QuantizedTensor:
    if block == NF4:
        data = np.empty(values.numel() // block.block_weights * block.block_bytes, dtype=np.uint8)
        to_blocks(*encode_nf4(values), data)
    else:
        data = encode(values, block)
    return QuantizedTensor(block, tuple(values.shape), data)


def check(x: Tensor, w: QuantizedTensor) -> None:
    exact = exact_product(x, w)
    ours, theirs = relative_error(product(x, w), exact), relative_error(ggml_product(x, w), exact)
    assert ours <= theirs * LUCK + ROUNDING or isnan(theirs), (ours, theirs)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("block", GGML_TYPES, ids=by_name)
def test_activations_of_every_kind(block: BlockType, kind: str) -> None:
    check(ACTIVATIONS[kind](4, COLS), random_weights(block, (96, COLS)))


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("block", GGML_TYPES, ids=by_name)
def test_weights_of_every_kind(block: BlockType, kind: str) -> None:
    check(ACTIVATIONS["random"](TOKENS, COLS), encoded(WEIGHTS[kind](96, COLS), block))


@pytest.mark.parametrize("kind", [*WEIGHTS])
def test_nf4_is_as_exact_as_floats(kind: str) -> None:
    w, x = encoded(WEIGHTS[kind](96, COLS), NF4), ACTIVATIONS["random"](3, COLS)
    assert relative_error(product(x, w), exact_product(x, w)) < ROUNDING


@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_denormal_activations_keep_their_sum(block: BlockType) -> None:
    """Also where their scale, a 127th of the largest, is one step above zero."""
    for step in (1, 3, 100, 1000):
        x = torch.full((2, COLS), step * 2.0**-149)
        w = encoded(torch.full((5, COLS), 20000.0), block)
        assert relative_error(product(x, w), exact_product(x, w)) < 0.02, step


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_an_activation_that_is_no_number_shows_in_its_token_alone(block: BlockType, bad: float) -> None:
    w = random_weights(block, (6, COLS))
    for col in (0, 17, COLS - 1):
        x = ACTIVATIONS["random"](3, COLS)
        x[1, col] = bad
        y = product(x, w)
        assert not y[1].isfinite().any()
        assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("block", QUANTIZED, ids=by_name)
def test_a_scale_that_is_no_number_shows_in_its_row_alone(block: BlockType, bad: float) -> None:
    for number in (0, COLS // block.block_weights - 1):
        w = random_weights(block, (3, COLS))
        data = w.data.copy()
        start = w.row_bytes + number * block.block_bytes + SCALE_BYTES[block.name]
        data[start : start + 2] = np.array([bad], np.float16).view(np.uint8)
        y = product(ACTIVATIONS["random"](8, COLS), QuantizedTensor(block, w.shape, data))
        assert not y[:, 1].isfinite().any()
        assert y[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_a_weight_that_is_no_number_shows(name: str) -> None:
    values = WEIGHTS["random"](3, 35)
    values[1, 34] = torch.nan
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    data = values.to(kinds[name]).view(torch.uint8).numpy().reshape(-1)
    y = product(ACTIVATIONS["random"](5, 35), QuantizedTensor(block_type(name), (3, 35), data))
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()
