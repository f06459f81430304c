"""Our own encoders: no larger error than ggml's, the same bytes from every instruction set, and odd input survived."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import k2lite.demo
from quant.checkpoint.checkpoint import Checkpoint
from quant.encode.encode import encode
from quant.encode.native import TYPES
from quant.errors import EncodeError
from quant.native_library import load_native
from quant.types import BlockType, block_type

NAMES = sorted(TYPES)
COLS = 2048
TOLERANCE = 1.0005
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "Gaussian": lambda random, shape: random.standard_normal(shape),
    "Laplace": lambda random, shape: random.laplace(size=shape),
    "heavy-tailed": lambda random, shape: random.standard_t(3, shape),
}
IMPORTANCES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "none": lambda random, cols: np.ones(0),
    "flat": lambda random, cols: np.ones(cols),
    "mild": lambda random, cols: random.uniform(0.1, 2, cols),
    "skewed": lambda random, cols: random.standard_normal(cols) ** 4 + 1e-6,
}


def gaussian(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def decoded(data: np.ndarray, block: BlockType, cols: int) -> Tensor:
    """What the gguf package reads."""
    rows = data.reshape(-1, block.row_bytes(cols))
    return torch.from_numpy(gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(block.ggml_id)).astype(np.float32))


def error(values: Tensor, block: BlockType, importance: Tensor | None, encoders: str = "native") -> float:
    """Root of the mean squared error, weighted by the importance if there is one."""
    off = (decoded(encode(values, block, importance, encoders), block, values.shape[-1]) - values).double()
    weights = torch.ones(values.shape[-1]) if importance is None else importance / importance.mean()
    return float((off**2 * weights).mean().sqrt())


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """64 Ki weights of each kind: three distributions, and rows of the demo model's matrices."""
    random = np.random.default_rng(0)
    kinds = {name: draw(random, (32, COLS)).astype(np.float32) for name, draw in DISTRIBUTIONS.items()}
    return {name: torch.from_numpy(values) for name, values in kinds.items()} | {"demo": demo_weights()}


def demo_weights() -> Tensor:
    with Checkpoint.open(Path(k2lite.demo.__file__).parent / "model") as checkpoint:
        wide = [name for name in checkpoint.names if "mlp.experts" in name and checkpoint.shape(name)[-1] % 256 == 0]
        rows = torch.cat([checkpoint.read(name).view(-1, 256)[:8] for name in wide])
    return rows[: len(rows) // 8 * 8].view(-1, COLS)[:32]


@pytest.mark.parametrize("kind", [*DISTRIBUTIONS, "demo"])
@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_not_above_ggmls(name: str, importance: str, kind: str, weights: dict[str, Tensor]) -> None:
    values, block = weights[kind], block_type(name)
    drawn = torch.from_numpy(IMPORTANCES[importance](np.random.default_rng(1), values.shape[-1]).astype(np.float32))
    columns = drawn if drawn.numel() else None
    assert error(values, block, columns) <= TOLERANCE * error(values, block, columns, "ggml")


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set_gives_the_same_bytes(
    name: str, importance: str, isa: str, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = block_type(name)
    drawn = torch.from_numpy(IMPORTANCES[importance](np.random.default_rng(1), COLS).astype(np.float32))
    columns = drawn if drawn.numel() else None
    found = {kind: encode(values, block, columns) for kind, values in weights.items()}
    monkeypatch.setattr(load_native(), "isa", "portable")
    assert all(np.array_equal(found[kind], encode(values, block, columns)) for kind, values in weights.items())


@pytest.mark.parametrize("cols", [256, 768, 1024])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_bytes_in_any_company(name: str, weighted: bool, cols: int) -> None:
    values, block = gaussian(7, cols), block_type(name)
    importance = torch.rand(cols, generator=torch.Generator().manual_seed(1)) + 0.01 if weighted else None
    together = encode(values, block, importance)
    alone = [encode(row, block, importance) for row in values]
    chunks = [encode(part, block, importance) for part in values.split([2, 1, 4])]
    assert np.array_equal(together, np.concatenate(alone))
    assert np.array_equal(together, np.concatenate(chunks))


@pytest.mark.parametrize("name", NAMES)
def test_many_threads_encode_what_one_encodes(name: str) -> None:
    values, block = gaussian(64, 1024), block_type(name)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda part: encode(part, block), values.split(3)))
    assert np.array_equal(np.concatenate(parts), encode(values, block))


@pytest.mark.parametrize("name", NAMES)
def test_weights_may_lie_anywhere(name: str) -> None:
    memory, block = gaussian(1, 1025), block_type(name)
    shifted = memory[:, 1:]
    assert shifted.data_ptr() % 16
    assert np.array_equal(encode(shifted, block), encode(shifted.clone(), block))


def _alone(value: float, at: int) -> Tensor:
    values = gaussian(2, 256)
    values[1, at] = value
    return values


ODD: dict[str, tuple[Tensor, float]] = {  # and the largest error that is accepted
    "zeros": (torch.zeros(3, 256), 0),
    "ones": (torch.ones(1, 256), 1e-3),
    "minus ones": (-torch.ones(1, 256), 1e-3),
    "two values": (gaussian(2, 256).sign(), 2e-3),
    "none negative": (gaussian(3, 256).abs(), 0.3),
    "none positive": (-gaussian(3, 256).abs(), 0.3),
    "far below zero": (gaussian(2, 512) - 100, 2.5),
    "far above zero": (gaussian(2, 512) + 100, 5),
    "one large": (_alone(65504, 7), 40),
    "one large and negative": (_alone(-65504, 255), 40),
    "largest of both signs": (gaussian(2, 256).sign() * 65504, 80),
    "subnormal": (gaussian(2, 256) * 1e-40, 1e-39),
    "smaller than a half": (gaussian(2, 256) * 1e-8, 5e-8),
    "as small as halves": (gaussian(2, 256) * 1e-6, 2e-6),
    "single weights": (gaussian(4, 256) * (torch.arange(256) % 37 == 0), 0.05),
    "a sub-block of zeros": (gaussian(2, 256) * (torch.arange(256) // 32 != 3), 0.7),
    "constant sub-blocks": (torch.where(torch.arange(256) // 32 % 2 == 0, -3.0, gaussian(2, 256)), 0.5),
}


def odd_importances(cols: int) -> list[Tensor | None]:
    column = torch.arange(cols)
    mild, every_other_sub_block, one_column = 0.1 + column % 7, column // 32 % 2 * 1.0, (column == 5) * 1.0
    huge, tiny = 1e20 - column * 1e17, (column + 1) * 1e-38
    return [None, *(columns.float() for columns in (mild, every_other_sub_block, one_column, huge, tiny))]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", NAMES)
def test_odd_weights_survive(name: str, odd: str) -> None:
    values, largest_error = ODD[odd]
    block = block_type(name)
    for columns in odd_importances(values.shape[-1]):
        found = decoded(encode(values, block, columns), block, values.shape[-1])
        counted = torch.ones(values.shape[-1], dtype=torch.bool) if columns is None else columns > 0
        assert found.isfinite().all()
        assert float((found - values)[:, counted].abs().max()) <= largest_error


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set_survives_odd_weights_in_the_same_way(
    name: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = block_type(name)
    cases = [(values, columns) for values, _ in ODD.values() for columns in odd_importances(values.shape[-1])]
    found = [encode(values, block, columns) for values, columns in cases]
    monkeypatch.setattr(load_native(), "isa", "portable")
    assert all(np.array_equal(data, encode(case[0], block, case[1])) for data, case in zip(found, cases, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_columns_without_importance_still_get_their_size_right(name: str) -> None:
    values, importance = gaussian(4, 512), torch.zeros(512)
    importance[300] = 1  # nothing in the first half of a row, one column in the second
    block = block_type(name)
    found = decoded(encode(values, block, importance), block, 512)
    assert torch.equal(found[:, :256], decoded(encode(values[:, :256], block), block, 256))
    assert float((found - values).abs().max()) < 0.5
    assert float((found - values)[:, 300].abs().max()) < 0.03


@pytest.mark.parametrize("cols", [256, 1280])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 65520.0, -1e30])
@pytest.mark.parametrize("name", NAMES)
def test_what_no_scale_can_follow_is_refused_wherever_it_stands(name: str, bad: float, cols: int, isa: str) -> None:
    block = block_type(name)
    for at in (0, 17, cols - 1):
        values = torch.zeros(3, cols)
        values[1, at] = bad
        with pytest.raises(EncodeError, match="are inf or NaN" if not abs(bad) < 1e38 else "do not fit into"):
            encode(values, block)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(-8, 4.5), st.floats(0, 3), st.booleans())
def test_no_weight_is_far_off(seed: int, exponent: float, spread: float, weighted: bool) -> None:
    random = np.random.default_rng(seed)
    sizes = 10 ** (exponent - spread * random.uniform(0, 1, (2, 16, 1)))
    values = (random.uniform(-1, 1, (2, 16, 32)) * sizes).astype(np.float32).reshape(2, 512)
    importance = torch.from_numpy(random.uniform(0.5, 1, 512).astype(np.float32)) if weighted else None
    for name, share in (("Q4_K", 0.25), ("Q5_K", 0.125), ("Q6_K", 0.0625)):
        found = decoded(encode(torch.from_numpy(values), block_type(name), importance), block_type(name), 512).numpy()
        limit = np.abs(values.reshape(2, 2, 256)).max(-1, keepdims=True) * share + 6e-8
        assert (np.abs(found - values).reshape(2, 2, 256) <= limit).all()


def test_other_bytes_come_with_another_encoding_number() -> None:
    """A conversion that was interrupted goes on only with encoders that say they are the same."""
    steps = np.arange(6 * 1024, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    uniform = torch.from_numpy((steps.astype(np.float64) / 2**31 - 1).astype(np.float32)).view(6, 1024)
    values = uniform * uniform * uniform
    columns = torch.arange(1, 1025, dtype=torch.float32)
    digest = hashlib.sha256()
    for name in NAMES:
        for importance in (None, columns):
            digest.update(encode(values, block_type(name), importance).tobytes())
    assert (load_native().encoding, digest.hexdigest()[:16]) == (1, "2d3d974e00570674")
