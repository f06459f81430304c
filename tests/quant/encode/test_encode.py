"""The encoders: ggml's have ggml's error, ours none above it; and what would break them is refused first."""

import re
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from quant.encode.decode import dequantize
from quant.encode.encode import encode, encoder_identity, encoder_name
from quant.errors import EncodeError, UnsupportedError
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType, block_type

# Root mean square errors of the C quantizers: on cosine data (sum, not mean), on Gaussian data without importance and
# with a flat one, and weighted by a random importance without and with using it.
EXPECTED_ERRORS = {
    "Q2_K": (0.004672, 0.29735, 0.26891, 0.29747, 0.25932),
    "Q3_K": (0.002510, 0.15111, 0.14484, 0.15115, 0.14201),
    "Q4_0": (0.001121, 0.08613, 0.08183, 0.08610, 0.08064),
    "Q4_1": (0.001144, 0.07839, 0.07020, 0.07832, 0.06857),
    "IQ4_NL": (0.001243, 0.07631, 0.07508, 0.07631, 0.07389),
    "IQ4_XS": (0.001256, 0.07689, 0.07577, 0.07693, 0.07462),
    "MXFP4": (0.001881, 0.11528, 0.11528, 0.11538, 0.11538),
    "Q4_K": (0.000982, 0.07165, 0.07106, 0.07174, 0.06946),
    "Q5_0": (0.000591, 0.04288, 0.04058, 0.04293, 0.04009),
    "Q5_1": (0.000556, 0.03803, 0.03394, 0.03802, 0.03314),
    "Q5_K": (0.000531, 0.03631, 0.03551, 0.03627, 0.03492),
    "Q6_K": (0.000261, 0.01777, 0.01735, 0.01776, 0.01700),
    "Q8_0": (0.000074, 0.00537, 0.00537, 0.00538, 0.00538),
}
ERROR_TOLERANCE = 0.01  # relative; the table has four digits
SAME_BYTES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")


@pytest.fixture(scope="module")
def gaussian() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((64, 2048)).astype(np.float32))


@pytest.fixture(scope="module")
def importance() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(0.1, 2, 2048).astype(np.float32))


def error(values: Tensor, block: BlockType, importance: Tensor | None, encoders: str = "native") -> Tensor:
    encoded = QuantizedTensor(block, tuple(values.shape), encode(values, block, importance, encoders))
    return (dequantize(encoded) - values).double()


def rms(difference: Tensor, weights: Tensor | None = None) -> float:
    square = difference**2 if weights is None else difference**2 * weights / weights.mean()
    return float(square.mean().sqrt())


def errors_of_the_table(block: BlockType, gaussian: Tensor, importance: Tensor, encoders: str) -> tuple[float, ...]:
    """What EXPECTED_ERRORS has, in its order."""
    cosine = 0.1 + 2 * torch.cos(torch.arange(4096, dtype=torch.float32))[None]
    plain = error(gaussian, block, None, encoders)
    return (
        float((error(cosine, block, None, encoders) ** 2).sum().sqrt()) / cosine.numel(),
        rms(plain),
        rms(error(gaussian, block, torch.ones(2048), encoders)),
        rms(plain, importance),
        rms(error(gaussian, block, importance, encoders), importance),
    )


@pytest.mark.parametrize("name", EXPECTED_ERRORS)
def test_errors_are_those_of_the_c_quantizers(name: str, gaussian: Tensor, importance: Tensor) -> None:
    found = errors_of_the_table(block_type(name), gaussian, importance, "ggml")
    assert found == pytest.approx(EXPECTED_ERRORS[name], rel=ERROR_TOLERANCE)


@pytest.mark.parametrize("name", EXPECTED_ERRORS)
def test_errors_are_not_above_those_of_the_c_quantizers(name: str, gaussian: Tensor, importance: Tensor) -> None:
    found = errors_of_the_table(block_type(name), gaussian, importance, "native")
    limits = [expected * (1 + ERROR_TOLERANCE) for expected in EXPECTED_ERRORS[name]]
    assert all(ours <= limit for ours, limit in zip(found, limits, strict=True)), (found, EXPECTED_ERRORS[name])


def test_unknown_encoders_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="unknown encoders 'gmml': known are native, ggml"):
        encode(torch.zeros(1, 256), block_type("Q4_K"), None, "gmml")


def test_the_identity_names_both_encoders() -> None:
    assert re.fullmatch(r"k2quant \d+, ggml \d+\.\d+.*", encoder_identity())
    assert [encoder_name(block_type(name)) for name in ("Q4_K", "Q6_K", "Q4_0")] == ["k2quant", "k2quant", "ggml"]


@pytest.mark.parametrize("name", SAME_BYTES)
def test_bytes_are_those_of_the_gguf_package(name: str, gaussian: Tensor) -> None:
    block = block_type(name)
    theirs = gguf.quants.quantize(gaussian.numpy(), gguf.GGMLQuantizationType(block.ggml_id))
    assert np.array_equal(encode(gaussian, block), theirs.view(np.uint8).reshape(-1))


@pytest.mark.parametrize("shape", [(256,), (3, 256), (2, 3, 512)])
def test_rows_of_all_leading_dimensions_follow_each_other(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    block = block_type("Q6_K")
    rows = [encode(row, block) for row in values.reshape(-1, shape[-1])]
    assert np.array_equal(encode(values, block), np.concatenate(rows))


def test_a_strided_view_is_encoded_as_its_copy(gaussian: Tensor) -> None:
    view = gaussian.T[:512]
    assert not view.is_contiguous()
    assert np.array_equal(encode(view, block_type("Q8_0")), encode(view.clone(), block_type("Q8_0")))


def test_no_rows_give_no_bytes() -> None:
    assert encode(torch.empty(0, 256), block_type("Q4_K")).shape == (0,)


def test_threads_encode_what_one_thread_encodes(gaussian: Tensor) -> None:
    block = block_type("Q4_K")
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda part: encode(part, block), gaussian.split(8)))
    assert np.array_equal(np.concatenate(parts), encode(gaussian, block))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["F32", "BF16", "Q4_K", "IQ4_XS"])
def test_inf_and_nan_are_refused(name: str, bad: float) -> None:
    values = torch.zeros(2, 256)
    values[1, 17] = bad
    with pytest.raises(EncodeError, match="1 of 512 weights are inf or NaN"):
        encode(values, block_type(name))


@pytest.mark.parametrize("block", BLOCK_TYPES, ids=str)
def test_weights_beyond_a_types_range_are_refused_or_kept(block: BlockType) -> None:
    values = torch.full((1, 256), 1e30)
    if block.name in ("F32", "BF16", "MXFP4"):
        assert rms(error(values, block, None)) < 0.2e30
        return
    with pytest.raises(EncodeError, match=rf"1e\+30 do not fit into {block}"):
        encode(values, block, torch.ones(256))


@pytest.mark.parametrize("name", ["F16", "BF16", *EXPECTED_ERRORS])
def test_weights_too_small_for_a_type_stay_small(name: str) -> None:
    values = torch.randn(2, 256, generator=torch.Generator().manual_seed(0)) * 1e-38
    assert rms(error(values, block_type(name), None)) < 2e-38


def test_bytes_that_are_not_valid_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.encode.encode.HALF_MAX", float("inf"))
    with pytest.raises(EncodeError, match="Q4_0 cannot hold these weights"):
        encode(torch.full((1, 32), 1e30), block_type("Q4_0"))


@pytest.mark.parametrize(("cols", "name"), [(1408, "Q4_K"), (31, "Q8_0"), (0, "F32")])
def test_rows_that_blocks_do_not_divide_are_refused(cols: int, name: str) -> None:
    with pytest.raises(EncodeError, match=f"a row of {cols} weights"):
        encode(torch.zeros(2, cols), block_type(name))


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ1_S"])
def test_a_missing_importance_is_named(name: str) -> None:
    with pytest.raises(EncodeError, match=f"{name} needs an importance"):
        encode(torch.zeros(1, 256), block_type(name))


@pytest.mark.parametrize(
    "importance",
    [
        torch.ones(255),
        torch.ones(1, 256),
        torch.ones(256, dtype=torch.float64),
        torch.zeros(256),
        -torch.ones(256),
        torch.full((256,), float("nan")),
        torch.full((256,), float("inf")),
        torch.full((256,), 1e30),
    ],
)
def test_an_invalid_importance_is_refused(importance: Tensor) -> None:
    with pytest.raises(EncodeError, match="importance"):
        encode(torch.ones(2, 256), block_type("Q4_K"), importance)


@pytest.mark.parametrize("values", [torch.zeros(2, 256, dtype=torch.bfloat16), torch.tensor(1.0)])
def test_only_float32_rows_are_taken(values: Tensor) -> None:
    with pytest.raises(TypeError, match="float32 rows"):
        encode(values, block_type("F32"))
