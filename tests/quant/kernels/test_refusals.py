"""What does not fit together is refused before a weight is touched: ggml would end the process."""

import pytest
import torch
from torch import Tensor

from quant.errors import UnsupportedError
from quant.kernels import KERNELS, ExpertCall, ExpertWeights, Kernels, make_kernels
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type
from tests.quant.kernels.samples import call, expert, random
from tests.quant.random_weights import random_weights


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (random(2, 31), (4, 32)),
        (random(2, 64), (4, 32)),
        (random(32), (4, 32)),
        (random(1, 2, 32), (4, 32)),
        (random(2, 32), (2, 4, 32)),
    ],
)
def test_linear_of_shapes_that_do_not_fit(kernels: Kernels, x: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        kernels.linear(x, random_weights(block_type("Q8_0"), shape))


@pytest.mark.parametrize("shape", [(2, 32), (1, 3, 32), (1, 2, 64)])
def test_heads_that_do_not_fit(kernels: Kernels, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"activations must have 3|does not fit"):
        kernels.linear_heads(random(*shape), random_weights(block_type("Q8_0"), (2, 4, 32)))


@pytest.mark.parametrize("x", [random(2, 32).double(), random(2, 32).bfloat16(), torch.ones(2, 32, dtype=torch.int64)])
def test_activations_of_other_dtypes(kernels: Kernels, x: Tensor) -> None:
    w = random_weights(block_type("Q8_0"), (4, 32))
    for product in (lambda: kernels.linear(x, w), lambda: kernels.experts(x, [])):
        with pytest.raises(TypeError, match="activations must be float32"):
            product()


@pytest.mark.parametrize("tokens", [[-1], [0, 3]])
def test_calls_that_name_tokens_outside(kernels: Kernels, tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="of 3"):
        kernels.experts(random(3, 32), [call(expert("Q8_0 Q8_0 Q8_0", 32, 32, 1), tokens)])


def test_calls_of_another_hidden_size(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="hidden size is 64"):
        kernels.experts(random(3, 32), [call(expert("Q8_0 Q8_0 Q8_0", 32, 64, 1), [0])])


def test_rows_outside(kernels: Kernels) -> None:
    w = random_weights(block_type("Q8_0"), (4, 32))
    with pytest.raises(IndexError, match="of 4 rows"):
        kernels.rows(w, torch.tensor([4]))
    with pytest.raises(ValueError, match="int64"):
        kernels.rows(w, torch.tensor([0.0]))


def test_a_type_that_is_not_served_is_refused(kernels: Kernels) -> None:
    block = BlockType("Q8_K", 15, 256, 292)
    w = QuantizedTensor(block, (1, 256), random_weights(block_type("Q8_0"), (1, 292 * 32)).data[:292])
    assert not kernels.serves(block)
    with pytest.raises(UnsupportedError, match="cannot multiply Q8_K"):
        kernels.linear(random(1, 256), w)


@pytest.mark.parametrize("name", KERNELS)
def test_closed_kernels_refuse_to_compute(name: str) -> None:
    kernels = make_kernels(name, threads=2)
    kernels.close()
    kernels.close()
    w = random_weights(block_type("Q8_0"), (4, 32))
    products = (
        lambda: kernels.linear(random(1, 32), w),
        lambda: kernels.linear_heads(random(1, 1, 32), QuantizedTensor(w.type, (1, 4, 32), w.data)),
        lambda: kernels.rows(w, torch.tensor([0])),
    )
    for product in products:
        with pytest.raises(RuntimeError, match="closed"):
            product()


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="known are reference, ggml"):
        make_kernels("cuda", threads=1)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("threads", [0, -1])
def test_too_few_threads_are_refused(name: str, threads: int) -> None:
    with pytest.raises(UnsupportedError, match="give 1 or more"):
        make_kernels(name, threads)


@pytest.mark.parametrize("name", ["reference", "ggml"])
def test_threads_that_cannot_be_pinned(name: str) -> None:
    with pytest.raises(UnsupportedError, match="leave out --pin"):
        make_kernels(name, 1, pin=True)


def test_experts_whose_matrices_do_not_fit_together() -> None:
    small, large = (random_weights(block_type("Q8_0"), (rows, 32)) for rows in (32, 64))
    with pytest.raises(ValueError, match=r"down \[hidden, ff\]"):
        ExpertWeights(small, small, large)
    with pytest.raises(ValueError, match="an expert is"):
        ExpertWeights(small, large, small)


def test_calls_whose_lists_do_not_fit_together() -> None:
    weights = expert("Q8_0 Q8_0 Q8_0", 32, 32, 1)
    with pytest.raises(ValueError, match="of one length"):
        ExpertCall(weights, torch.tensor([0, 1]), torch.ones(1))
    with pytest.raises(TypeError, match="tokens are int64"):
        ExpertCall(weights, torch.tensor([0], dtype=torch.int32), torch.ones(1))
