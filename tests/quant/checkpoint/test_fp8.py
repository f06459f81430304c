"""FP8 codes and block factors against the definition of the format."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quant.checkpoint.fp8 import _decode_with_torch, decode_fp8, decode_fp8_into, scale_shape
from tests.tiny_storage import fp8_values


def _random_codes(rows: int, cols: int, seed: int) -> Tensor:
    codes = np.random.default_rng(seed).integers(0, 256, (rows, cols), dtype=np.uint8)
    codes[codes & 0x7F == 0x7F] = 0
    return torch.from_numpy(codes)


def _weight_by_weight(codes: Tensor, scale_inv: Tensor) -> np.ndarray:
    table, factors = fp8_values(), scale_inv.float().numpy()
    out = np.empty(codes.shape, dtype=np.float32)
    for i, j in np.ndindex(*codes.shape):
        out[i, j] = table[codes.numpy()[i, j]] * factors[i // 128, j // 128]
    return out


def test_all_codes_have_the_value_of_the_definition() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(2, 128)
    decoded = decode_fp8(codes.view(torch.float8_e4m3fn), torch.ones(1, 1))
    np.testing.assert_array_equal(decoded.numpy().ravel(), fp8_values())
    assert decoded[0, 1] == 2.0**-9 and decoded[0, 0x7E] == 448.0
    assert math.copysign(1, decoded[1, 0]) == -1, "code 0x80 is negative zero"


@pytest.mark.parametrize("shape", [(1, 1), (127, 129), (128, 128), (272, 256), (130, 300), (5, 384), (256, 1)])
def test_partial_blocks_use_the_factor_of_the_block_they_begin(shape: tuple[int, int]) -> None:
    codes = _random_codes(*shape, seed=1)
    factors = torch.rand(scale_shape(*shape), generator=torch.Generator().manual_seed(2)) * 1e-3
    np.testing.assert_array_equal(decode_fp8(codes, factors).numpy(), _weight_by_weight(codes, factors))


@settings(max_examples=50, deadline=None)
@given(st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100), st.integers(0, 2**31))
def test_the_product_is_rounded_once_for_any_factor(factor: float, seed: int) -> None:
    codes, factors = _random_codes(2, 4, seed), torch.tensor([[factor]])
    np.testing.assert_array_equal(decode_fp8(codes, factors).numpy(), _weight_by_weight(codes, factors))


def test_factors_in_bfloat16_are_taken_at_their_value() -> None:
    codes, factors = _random_codes(3, 3, seed=3), torch.tensor([[0.0123]], dtype=torch.bfloat16)
    np.testing.assert_array_equal(decode_fp8(codes, factors).numpy(), _weight_by_weight(codes, factors))


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_codes_for_nan_stay_nan_and_leave_their_neighbours_alone(code: int) -> None:
    codes = torch.full((1, 3), 0x38, dtype=torch.uint8)
    codes[0, 1] = code
    decoded = decode_fp8(codes, torch.full((1, 1), 2.0))
    assert decoded.isnan().tolist() == [[False, True, False]]
    assert decoded[0, 0] == 2.0


def test_a_matrix_of_no_rows_is_decoded_to_no_rows() -> None:
    assert decode_fp8(torch.empty(0, 130, dtype=torch.uint8), torch.empty(0, 2)).shape == (0, 130)


def test_scale_shape_counts_blocks_begun() -> None:
    assert scale_shape(576, 7168) == (5, 56)
    assert scale_shape(128, 129) == (1, 2)


@pytest.mark.parametrize("shape", [(1, 1), (130, 300), (5, 384), (256, 17)])
def test_native_and_torch_give_the_same_bits(shape: tuple[int, int], isa: str) -> None:
    codes = _random_codes(*shape, seed=4)
    factors = torch.randn(scale_shape(*shape), generator=torch.Generator().manual_seed(5)) * 1e-39
    native, plain = torch.empty(shape), torch.empty(shape)
    for factor in (factors, factors * 1e30, factors * 1e70):
        assert decode_fp8_into(codes, factor, native) == _decode_with_torch(codes, factor, plain)
        assert torch.equal(native.view(torch.int32), plain.view(torch.int32))


@pytest.mark.parametrize(("code", "factor"), [(0x7F, 1.0), (0xFF, 1.0), (0x7E, 1e37), (0xFE, float("inf"))])
def test_it_is_told_when_a_weight_is_not_finite(code: int, factor: float, isa: str) -> None:
    for at in (0, 3, 16, 18):
        codes = torch.full((1, 19), 0x38, dtype=torch.uint8)
        weights = torch.empty(1, 19)
        assert decode_fp8_into(codes, torch.ones(1, 1), weights)
        codes[0, at] = code
        assert not decode_fp8_into(codes, torch.tensor([[factor]]), weights)


def test_without_the_native_library_the_values_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, factors = _random_codes(130, 140, seed=6), torch.rand(2, 2)
    native = decode_fp8(codes, factors)
    monkeypatch.setattr("quant.checkpoint.fp8.built_native", lambda: None)
    assert torch.equal(decode_fp8(codes, factors), native)


@pytest.mark.parametrize(
    ("codes", "factors", "weights"),
    [
        (torch.zeros(2, 3), torch.ones(1, 1), torch.empty(2, 3)),
        (torch.zeros(3, 2, dtype=torch.uint8).T, torch.ones(1, 1), torch.empty(2, 3)),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.ones(1, 2), torch.empty(2, 3)),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.ones(1, 1), torch.empty(2, 4)),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.ones(1, 1), torch.empty(2, 3, dtype=torch.float64)),
    ],
)
def test_what_does_not_fit_together_is_refused(codes: Tensor, factors: Tensor, weights: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be contiguous|factors"):
        decode_fp8_into(codes, factors, weights)
