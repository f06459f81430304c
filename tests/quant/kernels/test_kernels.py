"""Every implementation against the oracle: float64 products with the weights that the gguf package decodes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.kernels import ExpertCall, Kernels
from quant.types import BLOCK_TYPES, BlockType, block_type
from tests.quant.kernels.samples import call, expert, random
from tests.quant.random_weights import exact_values, random_weights

FLOAT32_ERROR = 1e-6
# ggml converts the activations too: to halves for half weights, else to 8 bits with one scale per 32 or 256.
GGML_ERRORS = {"F32": FLOAT32_ERROR, "F16": 4e-4, "BF16": 3e-3, "NF4": FLOAT32_ERROR}
GGML_BLOCK_ERRORS = {32: 7e-3, 256: 1e-2}
MAX_TO_RMS = 6  # the largest deviation of a few thousand numbers, in units of their root mean square
THREE_PRODUCTS = 3  # an expert's error, in units of one product's


def tolerance(kernels: Kernels, block: BlockType) -> float:
    """Root mean square of the error, relative to that of the result."""
    if type(kernels).__name__ == "ReferenceKernels":
        return FLOAT32_ERROR
    return GGML_ERRORS.get(block.name) or GGML_BLOCK_ERRORS[block.block_weights]


def check(found: Tensor, exact: Tensor, relative: float) -> None:
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    scale = float(exact.pow(2).mean().sqrt())
    deviation = found.double() - exact
    assert float(deviation.pow(2).mean().sqrt()) < relative * scale
    assert float(deviation.abs().max()) < MAX_TO_RMS * relative * scale


def exact_experts(x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
    total = torch.zeros(x.shape, dtype=torch.float64)
    for asked in calls:
        gate, up, down = (exact_values(w) for w in (asked.weights.gate, asked.weights.up, asked.weights.down))
        for token, scale in zip(asked.tokens.tolist(), asked.scales.tolist(), strict=True):
            row = x[token].double()
            total[token] += scale * (down @ (silu(gate @ row) * (up @ row)))
    return total


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("block", BLOCK_TYPES, ids=str)
def test_linear_of_every_type(kernels: Kernels, block: BlockType, tokens: int) -> None:
    assert kernels.serves(block)
    x, w = random(tokens, 512), random_weights(block, (70, 512))
    check(kernels.linear(x, w), x.double() @ exact_values(w).T, tolerance(kernels, block))


@pytest.mark.parametrize("tokens", range(1, 10))
@pytest.mark.parametrize("name", ["F32", "BF16", "Q8_0", "Q5_1", "Q4_K"])
def test_linear_of_every_small_number_of_tokens(kernels: Kernels, name: str, tokens: int) -> None:
    x, w = random(tokens, 256), random_weights(block_type(name), (33, 256))
    check(kernels.linear(x, w), x.double() @ exact_values(w).T, tolerance(kernels, w.type))


@pytest.mark.parametrize(
    ("name", "rows", "cols"),
    [
        ("Q5_0", 19, 1408),
        ("F32", 1, 40),
        ("Q8_0", 576, 1408),
        ("F32", 384, 512),
        ("F32", 7, 5),
        ("F16", 3, 33),
        ("BF16", 17, 100),
        ("Q4_K", 1408, 256),
        ("Q6_K", 131, 768),
        ("IQ4_NL", 45, 96),
    ],
)
@pytest.mark.parametrize("tokens", [1, 4, 17])
def test_linear_of_odd_shapes(kernels: Kernels, name: str, rows: int, cols: int, tokens: int) -> None:
    x, w = random(tokens, cols), random_weights(block_type(name), (rows, cols))
    check(kernels.linear(x, w), x.double() @ exact_values(w).T, tolerance(kernels, w.type))


@pytest.mark.parametrize("tokens", [1, 2, 9, 70])
@pytest.mark.parametrize("name", ["F32", "Q4_0", "Q6_K"])
def test_linear_of_matrices_that_are_cut_into_pieces(kernels: Kernels, name: str, tokens: int) -> None:
    block = block_type(name)
    rows = round(2.6 * 2**20 / block.row_bytes(2048)) + 5
    x, w = random(tokens, 2048), random_weights(block, (rows, 2048))
    check(kernels.linear(x, w), x.double() @ exact_values(w).T, tolerance(kernels, block))


def test_linear_of_a_strided_view(kernels: Kernels) -> None:
    x, w = random(256, 3).T, random_weights(block_type("Q8_0"), (40, 256))
    check(kernels.linear(x, w), kernels.linear(x.contiguous(), w).double(), FLOAT32_ERROR)


def test_linear_leaves_its_input_alone(kernels: Kernels) -> None:
    x, w = random(2, 256), random_weights(block_type("F32"), (8, 256))
    before = x.clone()
    kernels.linear(x, w)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["F32", "Q4_K", "Q5_0"])
def test_a_tokens_result_hardly_depends_on_its_batch(kernels: Kernels, name: str) -> None:
    x, w = random(64, 512), random_weights(block_type(name), (300, 512))
    alone = torch.cat([kernels.linear(x[i : i + 1], w) for i in (0, 17, 63)])
    check(kernels.linear(x, w)[[0, 17, 63]], alone.double(), FLOAT32_ERROR)


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize(
    ("name", "heads", "rows", "cols"),
    [("Q5_0", 16, 512, 128), ("Q8_0", 5, 33, 64), ("Q4_K", 3, 128, 512), ("F32", 64, 17, 8), ("BF16", 1, 9, 32)],
)
def test_linear_heads(kernels: Kernels, name: str, heads: int, rows: int, cols: int, tokens: int) -> None:
    x, w = random(tokens, heads, cols), random_weights(block_type(name), (heads, rows, cols))
    exact = torch.einsum("thc,hrc->thr", x.double(), exact_values(w))
    check(kernels.linear_heads(x, w), exact, tolerance(kernels, w.type))
    view = x.transpose(0, 1).contiguous().transpose(0, 1)
    check(kernels.linear_heads(view, w), exact, tolerance(kernels, w.type))


def test_many_heads_of_one_token_are_cut_into_several_graphs(kernels: Kernels) -> None:
    x, w = random(1, 11, 1024), random_weights(block_type("F32"), (11, 64, 1024))
    exact = torch.einsum("thc,hrc->thr", x.double(), exact_values(w))
    check(kernels.linear_heads(x, w), exact, FLOAT32_ERROR)


@pytest.mark.parametrize(
    ("types", "ff", "hidden"),
    [
        ("Q4_K Q4_K Q6_K", 256, 512),
        ("Q4_K Q6_K Q5_0", 1408, 256),
        ("Q8_0 F32 Q4_0", 96, 64),
        ("F32 F32 F32", 33, 17),
        ("BF16 BF16 F16", 40, 24),
        ("Q4_0 Q4_0 Q4_0", 32, 32),
    ],
)
@pytest.mark.parametrize("tokens", [1, 5, 12])
def test_experts_of_mixed_types(kernels: Kernels, types: str, ff: int, hidden: int, tokens: int) -> None:
    x = random(tokens, hidden)
    several = [expert(types, ff, hidden, seed) for seed in (10, 20, 30)]
    calls = [
        call(several[0], range(tokens)),
        call(several[1], [tokens - 1]),
        call(several[2], range(0, tokens, 2)),
    ]
    worst = max(tolerance(kernels, block_type(name)) for name in types.split())
    check(kernels.experts(x, calls), exact_experts(x, calls), THREE_PRODUCTS * worst)


def test_experts_of_different_types_and_widths_in_one_call(kernels: Kernels) -> None:
    x = random(6, 256)
    calls = [
        call(expert("Q4_K Q4_K Q6_K", 512, 256, 1), [0, 2, 5]),
        call(expert("Q8_0 Q8_0 Q8_0", 64, 256, 2), [1, 2]),
        call(expert("Q5_0 Q4_0 F16", 1408, 256, 3), range(6)),
    ]
    check(kernels.experts(x, calls), exact_experts(x, calls), THREE_PRODUCTS * 1e-2)


def test_an_expert_computes_the_same_wherever_it_lies(kernels: Kernels) -> None:
    x = random(3, 256)
    types = "Q4_K Q4_K Q4_K"
    here, there = expert(types, 256, 256, 1), expert(types, 256, 256, 1)
    assert here.gate.address != there.gate.address
    assert torch.equal(kernels.experts(x, [call(here, [0, 2])]), kernels.experts(x, [call(there, [0, 2])]))
    both = [call(here, [0, 2]), call(there, [1])]
    check(kernels.experts(x, both), exact_experts(x, both), THREE_PRODUCTS * 1e-2)


def test_calls_without_tokens_and_tokens_without_calls(kernels: Kernels) -> None:
    x = random(4, 32)
    weights = expert("Q8_0 Q8_0 Q8_0", 32, 32, 1)
    calls = [call(weights, []), call(weights, [1, 3]), call(weights, [])]
    found = kernels.experts(x, calls)
    check(found, exact_experts(x, calls), THREE_PRODUCTS * 7e-3)
    assert torch.equal(found[[0, 2]], torch.zeros(2, 32))


def test_a_token_may_come_twice(kernels: Kernels) -> None:
    x = random(2, 32)
    calls = [call(expert("F32 F32 F32", 32, 32, 1), [1, 1, 0])]
    check(kernels.experts(x, calls), exact_experts(x, calls), THREE_PRODUCTS * FLOAT32_ERROR)


def test_no_calls_give_zeros(kernels: Kernels) -> None:
    assert torch.equal(kernels.experts(random(3, 32), []), torch.zeros(3, 32))


def test_no_tokens_give_empty_results(kernels: Kernels) -> None:
    weights = expert("Q8_0 Q8_0 Q8_0", 32, 64, 1)
    w = random_weights(block_type("Q8_0"), (2, 5, 32))
    assert kernels.linear(random(0, 32), w.slab(0)).shape == (0, 5)
    assert kernels.linear_heads(random(0, 2, 32), w).shape == (0, 2, 5)
    assert kernels.experts(random(0, 64), [call(weights, [])]).shape == (0, 64)
    assert kernels.rows(w.slab(0), torch.empty(0, dtype=torch.int64)).shape == (0, 32)


@pytest.mark.parametrize("name", ["F32", "BF16", "Q4_K", "Q6_K", "Q8_0"])
def test_rows_are_the_decoded_rows(kernels: Kernels, name: str) -> None:
    w = random_weights(block_type(name), (10, 256))
    ids = torch.tensor([9, 0, 0, 4])
    assert torch.equal(kernels.rows(w, ids).double(), exact_values(w)[ids])
