"""NF4 by every implementation that serves it, against float64 products with the values that the format defines."""

from collections.abc import Iterator

import pytest
import torch

from quant.errors import UnsupportedError
from quant.kernels import ExpertWeights, Kernels, make_kernels
from quant.kernels.nf4 import Nf4Kernels, with_nf4
from quant.nf4.values import NF4
from quant.types import block_type
from tests.quant.kernels.samples import call, random
from tests.quant.kernels.test_kernels import FLOAT32_ERROR, THREE_PRODUCTS, check, exact_experts
from tests.quant.random_weights import exact_values, random_weights


@pytest.fixture(scope="module", params=["reference", "ggml", "native"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    made = with_nf4(make_kernels(request.param, threads=2))
    yield made
    made.close()


def nf4_expert(types: str, ff: int, hidden: int, seed: int) -> ExpertWeights:
    kinds = [NF4 if name == "NF4" else block_type(name) for name in types.split()]
    shapes = [(ff, hidden), (ff, hidden), (hidden, ff)]
    return ExpertWeights(*(random_weights(*pair, seed + i) for i, pair in enumerate(zip(kinds, shapes, strict=True))))


@pytest.mark.parametrize("tokens", [0, 1, 9])
@pytest.mark.parametrize(("rows", "cols"), [(70, 512), (1, 64), (33, 1408)])
def test_linear(kernels: Kernels, rows: int, cols: int, tokens: int) -> None:
    x, w = random(tokens, cols), random_weights(NF4, (rows, cols))
    assert kernels.serves(NF4)
    found = kernels.linear(x, w)
    assert found.shape == (tokens, rows)
    if tokens:
        check(found, x.double() @ exact_values(w).T, FLOAT32_ERROR)


def test_a_large_matrix_is_decoded_in_pieces(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.kernels.nf4._PIECE_WEIGHTS", 1000)
    x, w = random(3, 256), random_weights(NF4, (17, 256))
    check(kernels.linear(x, w), x.double() @ exact_values(w).T, FLOAT32_ERROR)


@pytest.mark.parametrize("tokens", [1, 5])
def test_linear_heads(kernels: Kernels, tokens: int) -> None:
    x, w = random(tokens, 4, 128), random_weights(NF4, (4, 33, 128))
    exact = torch.einsum("thc,hrc->thr", x.double(), exact_values(w))
    check(kernels.linear_heads(x, w), exact, FLOAT32_ERROR)


@pytest.mark.parametrize("types", ["NF4 NF4 NF4", "NF4 NF4 F32", "F32 NF4 NF4"])
@pytest.mark.parametrize("tokens", [1, 6])
def test_experts(kernels: Kernels, types: str, tokens: int) -> None:
    x = random(tokens, 128)
    calls = [
        call(nf4_expert(types, 192, 128, 10), range(tokens)),
        call(nf4_expert("F32 F32 F32", 64, 128, 20), [tokens - 1]),
        call(nf4_expert(types, 64, 128, 30), []),
        call(nf4_expert(types, 64, 128, 40), range(0, tokens, 2)),
    ]
    check(kernels.experts(x, calls), exact_experts(x, calls), THREE_PRODUCTS * FLOAT32_ERROR)


def test_rows_are_the_decoded_rows(kernels: Kernels) -> None:
    w = random_weights(NF4, (10, 192))
    found = kernels.rows(w, torch.tensor([9, 0, 0]))
    check(found, exact_values(w)[[9, 0, 0]], FLOAT32_ERROR)


def test_shapes_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    w = random_weights(NF4, (4, 64))
    with pytest.raises(ValueError, match="does not fit"):
        kernels.linear(random(2, 128), w)
    with pytest.raises(ValueError, match="does not fit"):
        kernels.linear_heads(random(2, 3, 64), random_weights(NF4, (2, 4, 64)))
    with pytest.raises(ValueError, match="of 3"):
        kernels.experts(random(3, 64), [call(nf4_expert("NF4 NF4 NF4", 64, 64, 1), [3])])
    with pytest.raises(IndexError, match="of 4 rows"):
        kernels.rows(w, torch.tensor([4]))


def test_ggml_alone_serves_no_nf4_and_the_reference_needs_no_help() -> None:
    ggml, reference = make_kernels("ggml", 1), make_kernels("reference", 1)
    assert not ggml.serves(NF4)
    with pytest.raises(UnsupportedError, match="cannot multiply NF4"):
        ggml.linear(random(1, 64), random_weights(NF4, (4, 64)))
    assert with_nf4(reference) is reference
    assert isinstance(with_nf4(ggml), Nf4Kernels)
    ggml.close()


def test_closing_closes_both() -> None:
    inner = make_kernels("ggml", 1)
    kernels = with_nf4(inner)
    kernels.close()
    kernels.close()
    w, plain = random_weights(NF4, (4, 64)), random_weights(block_type("F32"), (4, 64))
    for product in (
        lambda: kernels.linear(random(1, 64), w),
        lambda: kernels.rows(w, torch.tensor([0])),
        lambda: kernels.experts(random(1, 64), []),
        lambda: inner.linear(random(1, 64), plain),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            product()
