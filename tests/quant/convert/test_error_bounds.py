"""Correct encoders stay within the bounds on rows of every kind; wrong bytes do not."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.convert.error_bounds import RowErrors, error_bound, measure_rows
from quant.encode.decode import dequantize
from quant.encode.encode import encode
from quant.encode.native import TYPES as NATIVE_TYPES
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType, block_type

ROWS, COLS = 8, 1024

# These hold real weights, but not every pattern: rows of which most weights are zero are beyond them.
COARSE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
ROUNDED = [block for block in BLOCK_TYPES if block.name not in ("F32", "F16", "BF16")]
# Ternary types turn a row of Gaussians into few large and many small ones: hardly better than zeros.
SHARP = [block for block in ROUNDED if not block.name.startswith("TQ")]

# Sign, exponent and the first bits of the mantissa of a block's scale; the lower bits hide in the error of the codes.
SCALE_BYTES = {
    "Q4_0": 1,
    "Q4_1": 1,
    "Q5_0": 1,
    "Q5_1": 1,
    "Q8_0": 1,
    "IQ4_NL": 1,
    "Q2_K": 81,
    "Q3_K": 109,
    "Q4_K": 1,
    "Q5_K": 1,
    "Q6_K": 209,
    "IQ4_XS": 1,
    "MXFP4": 0,
}

# Their encoders search grids for seconds.
SLOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S")


def marked(blocks: Iterable[BlockType]) -> list[object]:
    return [pytest.param(b, marks=pytest.mark.slow) if b.name in SLOW else b for b in blocks]


def rows_by_kind() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(ROWS, COLS, generator=g)

    def spiked(rest: float) -> Tensor:
        return torch.where(torch.arange(COLS) % 32 == 0, 1.0, rest).expand(ROWS, COLS).clone()

    outliers = normal()
    outliers[torch.rand(ROWS, COLS, generator=g) < 0.01] *= 50
    uniform = torch.rand(ROWS, COLS, generator=g) - 0.5
    return {
        "gaussian": normal() * 0.02,
        "laplace": -torch.sign(uniform) * torch.log1p(-1.99999 * uniform.abs()),
        "student": normal() / ((normal() ** 2 + normal() ** 2 + normal() ** 2) / 3).sqrt(),
        "outliers": outliers,
        "constant": torch.full((ROWS, COLS), 0.7),
        "negative": torch.full((ROWS, COLS), -0.7),
        "zero": torch.zeros(ROWS, COLS),
        "alternating": torch.where(torch.arange(COLS) % 2 == 0, 1.0, -1.0).expand(ROWS, COLS).clone(),
        "offset": 1 + normal() * 0.01,
        "fp8": normal().to(torch.float8_e4m3fn).float() * 0.0017,
        "int4": torch.randint(-7, 8, (ROWS, COLS), generator=g) * 0.002,
        "half a step of 4 bits": spiked(1 / 16),
        "half a step of 5 bits": spiked(1 / 32),
        "uneven groups": normal() * torch.exp(2 * torch.randn(ROWS, COLS // 32, generator=g)).repeat_interleave(32, 1),
        "tiny": normal() * 1e-6,
        "subnormal": normal() * 1e-39,
    }


def importances() -> dict[str, Tensor | None]:
    g = torch.Generator().manual_seed(1)
    return {
        "none": None,
        "flat": torch.ones(COLS),
        "uneven": torch.exp(1.5 * torch.randn(COLS, generator=g)),
    }


def measured(
    block: BlockType,
    values: Tensor,
    importance: Tensor | None,
    data: np.ndarray | None = None,
    encoders: str = "native",
) -> RowErrors:
    """Errors of `data`, by default what an encoder makes of `values`."""
    if data is None:
        data = encode(values, block, importance, encoders)
    decoded = dequantize(QuantizedTensor(block, tuple(values.shape), data))
    weights = None if importance is None else importance.expand(values.shape)
    return measure_rows(error_bound(block.name), values, decoded, weights)


def test_what_our_own_encoders_make_is_within_the_bound() -> None:
    for name in NATIVE_TYPES:
        check_encoder(block_type(name), "native")


@pytest.mark.parametrize("block", marked(BLOCK_TYPES), ids=str)
def test_what_the_encoders_of_ggml_make_is_within_the_bound(block: BlockType) -> None:
    check_encoder(block, "ggml")


def check_encoder(block: BlockType, encoders: str) -> None:
    kinds = ("gaussian", "laplace", "student", "fp8") if block.name in COARSE else tuple(rows_by_kind())
    rows = 2 if block.name in COARSE else ROWS
    for weighting, importance in importances().items():
        if importance is None and block.name in ("IQ2_XXS", "IQ2_XS", "IQ1_S"):
            continue
        for kind in kinds:
            errors = measured(block, rows_by_kind()[kind][:rows], importance, encoders=encoders)
            assert not errors.beyond, (block.name, kind, weighting, errors.worst)


def wrong_bytes(block: BlockType, values: Tensor, importance: Tensor | None) -> dict[str, np.ndarray]:
    """Bytes of `values` with something wrong in row 3, or in all."""
    right = encode(values, block, importance).reshape(ROWS, -1)
    zeroed, exchanged, rolled = right.copy(), right.copy(), np.roll(right, 1, axis=0)
    zeros = encode(torch.zeros(1, block.block_weights), block, importance[: block.block_weights])
    zeroed[3, : block.block_bytes] = zeros
    exchanged[3, : block.block_bytes], exchanged[3, block.block_bytes : 2 * block.block_bytes] = (
        right[3, block.block_bytes : 2 * block.block_bytes],
        right[3, : block.block_bytes],
    )
    return {"zeroed block": zeroed, "exchanged blocks": exchanged, "shifted rows": rolled}


@pytest.mark.parametrize("block", marked(SHARP), ids=str)
def test_zeroed_exchanged_and_shifted_blocks_are_beyond_the_bound(block: BlockType) -> None:
    values = rows_by_kind()["gaussian"]
    importance = torch.ones(COLS)
    for kind, data in wrong_bytes(block, values, importance).items():
        for weights in (None, importance):
            errors = measured(block, values, weights, data.reshape(-1))
            assert 3 in errors.beyond, (kind, errors.worst)
            assert len(errors.beyond) == (ROWS if kind == "shifted rows" else 1)


@pytest.mark.parametrize("name", SCALE_BYTES)
def test_a_flipped_scale_byte_is_beyond_the_bound(name: str) -> None:
    block = block_type(name)
    values = rows_by_kind()["laplace"]
    right = encode(values, block).reshape(ROWS, -1)
    right[5, SCALE_BYTES[name]] ^= 0xFF
    assert measured(block, values, None, right.reshape(-1)).beyond == (5,)


def test_a_single_changed_number_of_an_exact_type_is_beyond_the_bound() -> None:
    values = rows_by_kind()["gaussian"]
    changed = values.clone()
    changed[2, 7] = torch.nextafter(changed[2, 7], torch.tensor(1.0))
    assert measure_rows(error_bound("F32"), values, changed).beyond == (2,)
    assert measure_rows(error_bound("BF16"), values, values.bfloat16().float()).beyond == ()
    assert measure_rows(error_bound("BF16"), values, values * 1.005).beyond == tuple(range(ROWS))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_beyond_the_bound(bad: float) -> None:
    values = rows_by_kind()["gaussian"]
    decoded = values.clone()
    decoded[4, 0] = bad
    errors = measure_rows(error_bound("IQ1_S"), values, decoded, torch.ones_like(values))
    assert errors.beyond == (4,)
    assert errors.worst == float("inf")


def test_sums_of_two_halves_are_the_sums_of_the_whole() -> None:
    values = rows_by_kind()["gaussian"]
    decoded = values + 0.001
    weights = torch.rand(ROWS, COLS, generator=torch.Generator().manual_seed(2))
    bound = error_bound("Q8_0")
    whole = measure_rows(bound, values, decoded, weights)
    halves = [measure_rows(bound, values[rows], decoded[rows], weights[rows]) for rows in (slice(0, 4), slice(4, 8))]
    for field in ("squared_error", "squared_value", "weighted_error", "weighted_value"):
        assert sum(getattr(half, field) for half in halves) == pytest.approx(getattr(whole, field))
    assert whole.squared_error == pytest.approx(ROWS * COLS * 1e-6, rel=1e-3)


def test_blocks_that_cross_rows_are_counted_in_the_row_where_they_begin() -> None:
    values = torch.ones(4, 96)
    decoded = values.clone()
    decoded.view(-1)[64:128] = 0  # the second block of 64, half in row 0 and half in row 1
    assert measure_rows(error_bound("NF4"), values, decoded).beyond == (0,)


def test_every_type_has_a_bound() -> None:
    assert all(error_bound(block.name).block_weights % block.block_weights == 0 for block in BLOCK_TYPES)
