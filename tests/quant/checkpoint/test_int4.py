"""Packed INT4 groups against the definition of the format."""

import numpy as np
import pytest
import torch

from quant.checkpoint.int4 import Int4Weights, _decode_with_torch, decode_int4, decode_int4_into
from tests.tiny_storage import store_int4


def _weight_by_weight(words: np.ndarray, scales: np.ndarray) -> np.ndarray:
    rows, cols = words.shape[0], words.shape[1] * 8
    out = np.empty((rows, cols), dtype=np.float32)
    for row, col in np.ndindex(rows, cols):
        nibble = int(words[row, col // 8]) >> (4 * (col % 8)) & 15
        out[row, col] = np.float32(nibble - 8) * scales[row, col // 32]
    return out


def _int32(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def test_a_block_worked_out_by_hand() -> None:
    words = np.array([[0x87654321, 0x8FEDCBA9, 0x4C3D2E1F, 0x08796A5B]], dtype=np.uint32)
    levels = [*range(-7, 8), 0, 7, -7, 6, -6, 5, -5, 4, -4, 3, -3, 2, -2, 1, -1, 0, -8]
    scale = torch.tensor([[0.002029418945]], dtype=torch.bfloat16)
    decoded = decode_int4(Int4Weights(_int32(words), scale))
    expected = torch.tensor([levels], dtype=torch.float32) * scale.float()
    assert torch.equal(decoded, expected)


@pytest.mark.parametrize("shape", [(1, 32), (3, 96), (16, 512)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_words_and_scales(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, cols = shape
    random = np.random.default_rng(0)
    words = random.integers(0, 2**32, (rows, cols // 8), dtype=np.uint32)
    scales = torch.from_numpy(random.standard_normal((rows, cols // 32)).astype(np.float32)).to(dtype)
    weights = Int4Weights(_int32(words), scales)
    assert weights.shape == shape
    np.testing.assert_array_equal(decode_int4(weights).numpy(), _weight_by_weight(words, scales.float().numpy()))


def test_what_was_packed_comes_back() -> None:
    stored, exact = store_int4(torch.randn(8, 256, generator=torch.Generator().manual_seed(1)))
    weights = Int4Weights(stored[".weight_packed"], stored[".weight_scale"])
    assert torch.equal(decode_int4(weights), exact)


@pytest.mark.parametrize("scale", [1e-40, 1e-3, 1e37])
def test_native_and_torch_give_the_same_bits(scale: float, isa: str) -> None:
    random = np.random.default_rng(2)
    words = _int32(random.integers(0, 2**32, (5, 36), dtype=np.uint32))
    weights = Int4Weights(words, torch.from_numpy(random.standard_normal((5, 9)).astype(np.float32)) * scale)
    native, plain = torch.empty(weights.shape), torch.empty(weights.shape)
    assert decode_int4_into(weights, native) == _decode_with_torch(weights, plain)
    assert torch.equal(native.view(torch.int32), plain.view(torch.int32))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_it_is_told_when_a_weight_is_not_finite(bad: float, isa: str) -> None:
    words, values = torch.full((2, 8), 0x11111111, dtype=torch.int32), torch.empty(2, 64)
    scales = torch.ones(2, 2)
    assert decode_int4_into(Int4Weights(words, scales), values)
    scales[1, 1] = bad
    assert not decode_int4_into(Int4Weights(words, scales), values)


def test_without_the_native_library_the_values_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Int4Weights(_int32(np.arange(32).reshape(2, 16) * 0x1234567), torch.rand(2, 4).bfloat16())
    native = decode_int4(weights)
    monkeypatch.setattr("quant.checkpoint.int4.built_native", lambda: None)
    assert torch.equal(decode_int4(weights), native)


@pytest.mark.parametrize(
    ("words", "scales", "values"),
    [
        (torch.zeros(2, 8, dtype=torch.int64), torch.ones(2, 2), torch.empty(2, 64)),
        (torch.zeros(2, 8, dtype=torch.int32), torch.ones(2, 3), torch.empty(2, 64)),
        (torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 1), torch.empty(2, 24)),
        (torch.zeros(2, 8, dtype=torch.int32), torch.ones(2, 2), torch.empty(2, 63)),
    ],
)
def test_what_does_not_fit_together_is_refused(
    words: torch.Tensor, scales: torch.Tensor, values: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match=r"do not match|must be contiguous"):
        decode_int4_into(Int4Weights(words, scales), values)
