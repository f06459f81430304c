"""NF4 values: the bytes that bitsandbytes makes, and what it makes of them."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.encode.decode import dequantize, dequantize_rows
from quant.errors import EncodeError
from quant.nf4.values import BLOCK, NF4, NF4_VALUES, decode_nf4, encode_nf4, nf4_table, to_blocks
from quant.tensor import QuantizedTensor


def samples(count: int, seed: int = 0) -> Tensor:
    """Blocks of very different size, with zeros, the smallest numbers and a huge one among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator) * torch.rand(count, generator=generator) ** 3
    if count >= 5 * BLOCK:
        values[:64] = 0
        values[64:128] = -0.0
        values[128:192] *= 1e-41
        values[200] = 3e38
        values[256:320] = -0.25
    return values


def test_the_table_is_that_of_bitsandbytes() -> None:
    from bitsandbytes.functional import get_4bit_type

    assert torch.equal(nf4_table(), get_4bit_type("nf4", device="cpu"))


def test_the_table_follows_from_the_normal_distribution() -> None:
    def quantiles(count: int) -> list[float]:
        """`count` quantiles from the outermost probability towards one half, which is left out."""
        return [NormalDist().inv_cdf(p) for p in np.linspace(0.9677083, 0.5, count + 1)[:-1]]

    raw = sorted([-q for q in quantiles(7)] + [0.0] + quantiles(8))
    assert np.allclose(NF4_VALUES, np.array(raw) / max(raw), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 320, 64 * 9 + 17, 131072, 131072 * 2 + 64, 300_001])
def test_encoding_makes_the_bytes_of_bitsandbytes(count: int) -> None:
    from bitsandbytes.functional import quantize_4bit

    values = samples(count)
    codes, factors = encode_nf4(values)
    expected, state = quantize_4bit(values, blocksize=BLOCK, quant_type="nf4")
    assert np.array_equal(codes, expected.flatten().numpy())
    assert np.array_equal(factors, state.absmax.numpy())


@pytest.mark.parametrize("count", [2, 64, 130, 64 * 9 + 18, 131072 * 2 + 64])
@pytest.mark.parametrize("block", [64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_makes_the_values_of_bitsandbytes(count: int, block: int, dtype: torch.dtype) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(samples(count).to(dtype), blocksize=block, quant_type="nf4")
    decoded = decode_nf4(packed.flatten().numpy(), state.absmax.numpy(), count, block)
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded.to(dtype), dequantize_4bit(packed, state).flatten())


def test_every_weight_gets_the_nearest_value() -> None:
    values = samples(64 * 50)
    codes, factors = encode_nf4(values)
    found = np.stack([codes >> 4, codes & 15], axis=1).reshape(-1, 64)
    usual = factors > 1e-30  # smaller factors lose their last digits
    scaled = values.double().numpy().reshape(-1, 64)[usual] / factors[usual, None]
    distances = np.abs(scaled[:, :, None] - np.array(NF4_VALUES))
    chosen = np.take_along_axis(distances, found[usual][:, :, None].astype(int), axis=2)[:, :, 0]
    assert (chosen <= distances.min(axis=2) + 1e-6).all()


def test_the_first_of_two_weights_is_in_the_high_bits() -> None:
    codes, factors = encode_nf4(torch.tensor([2.0, -2.0, 0.0, 1.0]))
    assert codes.tolist() == [0xF0, 0x7C]
    assert factors.tolist() == [2.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 100, 639, 650])
def test_numbers_that_are_none_are_refused(bad: float, place: int) -> None:
    values = samples(660)
    values[place] = bad
    with pytest.raises(EncodeError, match="1 weights are NaN or infinite"):
        encode_nf4(values)


def test_blocks_in_memory_hold_the_same_values() -> None:
    values = samples(6 * 192).reshape(2, 3, 192)
    codes, factors = encode_nf4(values)
    data = np.empty(values.numel() // 64 * 36, dtype=np.uint8)
    to_blocks(codes, factors, data)
    tensor = QuantizedTensor(NF4, (2, 3, 192), data)
    expected = decode_nf4(codes, factors, values.numel()).view(values.shape)
    assert torch.equal(dequantize(tensor), expected)
    assert torch.equal(dequantize_rows(tensor, [5, 0]), expected.view(6, 192)[[5, 0]])
    assert torch.equal(dequantize(tensor.slab(1)), expected[1])
    assert dequantize_rows(tensor, []).shape == (0, 192)


def test_a_damaged_factor_shows_in_the_values() -> None:
    codes, factors = encode_nf4(samples(640))
    factors[3] = float("nan")
    data = np.empty(360, dtype=np.uint8)
    to_blocks(codes, factors, data)
    values = dequantize(QuantizedTensor(NF4, (1, 640), data))
    assert values[0, 192:256].isnan().all()
    assert values.isnan().sum() == 64
