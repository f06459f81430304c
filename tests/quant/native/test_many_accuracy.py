"""The kernels for many tokens are no less exact than ggml's on the same input, and show what is no number."""

from math import isnan

import numpy as np
import pytest
import torch

from quant.tensor import QuantizedTensor
from quant.types import BlockType
from tests.quant.native.row_products import (
    QUANTIZED,
    TYPES,
    by_name,
    exact_product,
    ggml_product,
    product,
    relative_error,
)
from tests.quant.native.test_rows_accuracy import (
    ACTIVATIONS,
    COLS,
    GGML_TYPES,
    LUCK,
    ROUNDING,
    SCALE_BYTES,
    TOKENS,
    WEIGHTS,
    encoded,
)
from tests.quant.random_weights import random_weights

pytestmark = pytest.mark.usefixtures("isa")


def check(x: torch.Tensor, w: QuantizedTensor) -> None:
    exact = exact_product(x, w)
    ours, theirs = relative_error(product(x, w, many=True), exact), relative_error(ggml_product(x, w), exact)
    assert ours <= theirs * LUCK + ROUNDING or isnan(theirs), (ours, theirs)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("block", GGML_TYPES, ids=by_name)
def test_activations_of_every_kind(block: BlockType, kind: str) -> None:
    check(ACTIVATIONS[kind](16, COLS), random_weights(block, (96, COLS)))


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("block", GGML_TYPES, ids=by_name)
def test_weights_of_every_kind(block: BlockType, kind: str) -> None:
    check(ACTIVATIONS["random"](TOKENS, COLS), encoded(WEIGHTS[kind](96, COLS), block))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("block", TYPES, ids=by_name)
def test_an_activation_that_is_no_number_shows_in_its_token_alone(block: BlockType, bad: float) -> None:
    w = random_weights(block, (33, COLS))
    for col in (0, 17, COLS - 1):
        x = ACTIVATIONS["random"](9, COLS)
        x[4, col] = bad
        y = product(x, w, many=True)
        assert not y[4].isfinite().any()
        assert y[[0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


@pytest.mark.parametrize("block", QUANTIZED, ids=by_name)
def test_a_scale_that_is_no_number_shows_in_its_row_alone(block: BlockType) -> None:
    for number in (0, COLS // block.block_weights - 1):
        w = random_weights(block, (20, COLS))
        data = w.data.copy()
        start = 18 * w.row_bytes + number * block.block_bytes + SCALE_BYTES[block.name]
        data[start : start + 2] = np.array([np.nan], np.float16).view(np.uint8)
        y = product(ACTIVATIONS["random"](10, COLS), QuantizedTensor(block, w.shape, data), many=True)
        assert y[:, 18].isnan().all()
        assert y[:, [*range(18), 19]].isfinite().all()
