"""Products by several threads: the same bits whatever their number."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.kernels import ExpertCall
from quant.types import block_type
from tests.quant.kernels.samples import call, expert, random
from tests.quant.kernels.test_kernels import check, exact_experts
from tests.quant.native.jobs import experts, heads, linear, pool
from tests.quant.random_weights import exact_values, random_weights

THREADS = (1, 2, 3, 5)
ERROR = 7e-3
EXPERTS_ERROR = 3 * ERROR


def some_experts(tokens: int, hidden: int = 512) -> list[ExpertCall]:
    return [
        call(expert("Q4_K Q4_K Q6_K", 768, hidden, 1), range(tokens)),
        call(expert("Q8_0 Q4_K Q5_0", 352, hidden, 2), range(0, tokens, 2)),
        call(expert("Q8_0 Q8_0 Q8_0", 64, hidden, 3), []),
        call(expert("F32 BF16 F16", 33, hidden, 4), [tokens - 1, 0, 0]),
    ]


def linear_rows(opened: int, tokens: int) -> Tensor:
    return linear(opened, random(tokens, 512), random_weights(block_type("Q4_K"), (2003, 512)))


def linear_floats(opened: int, tokens: int) -> Tensor:
    return linear(opened, random(tokens, 130), random_weights(block_type("F32"), (2002, 130)))


def many_heads(opened: int, tokens: int) -> Tensor:
    return heads(opened, random(tokens, 40, 128), random_weights(block_type("Q8_0"), (40, 65, 128)))


def large_heads(opened: int, tokens: int) -> Tensor:
    return heads(opened, random(tokens, 3, 512), random_weights(block_type("Q8_0"), (3, 1500, 512)))


def several_experts(opened: int, tokens: int) -> Tensor:
    return experts(opened, random(tokens, 512), some_experts(tokens))


@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("product", [linear_rows, linear_floats, many_heads, large_heads, several_experts])
def test_results_do_not_depend_on_the_number_of_threads(
    isa: str, product: Callable[[int, int], Tensor], tokens: int
) -> None:
    results = []
    for threads in THREADS:
        with pool(threads) as opened:
            results += [product(opened, tokens) for _ in range(3)]
    assert results[0].isfinite().all()
    assert results[0].abs().max() > 0
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize(("count", "rows", "cols"), [(1, 1, 32), (2, 7, 64), (300, 5, 96), (3, 1500, 512)])
def test_heads_of_all_sizes(count: int, rows: int, cols: int, tokens: int) -> None:
    x, w = random(count, tokens, cols).transpose(0, 1), random_weights(block_type("Q8_0"), (count, rows, cols))
    exact = torch.einsum("thc,hrc->thr", x.double(), exact_values(w))
    with pool(2) as opened:
        check(heads(opened, x, w), exact, 3 * ERROR if exact.numel() < 100 else ERROR)


def test_one_input_for_all_heads() -> None:
    x, w = random(3, 1, 64).expand(3, 4, 64), random_weights(block_type("F32"), (4, 6, 64))
    with pool(2) as opened:
        check(heads(opened, x, w), torch.einsum("thc,hrc->thr", x.double(), exact_values(w)), 1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_experts_are_added_to_what_is_there(isa: str, tokens: int) -> None:
    x, onto = random(tokens, 512), random(tokens, 512, seed=2)
    with pool(2) as opened:
        alone, added = (experts(opened, x, some_experts(tokens), start) for start in (None, onto))
        nothing = experts(opened, x, [], onto)
    check(alone, exact_experts(x, some_experts(tokens)), EXPERTS_ERROR)
    check(added - onto, alone.double(), 1e-5)
    assert torch.equal(nothing, onto)


def test_many_tokens_are_computed_in_waves() -> None:
    """More hidden values than a wave holds, in one expert and in several."""
    tokens, types = 5000, "Q8_0 Q8_0 Q8_0"
    x = random(tokens, 64)
    calls = [
        call(expert(types, 96, 64, 1), range(tokens)),
        call(expert(types, 3200, 64, 2), range(tokens)),
        call(expert(types, 800, 64, 3), range(1, tokens, 2)),
        call(expert(types, 96, 64, 4), [tokens - 1]),
    ]
    exact = torch.zeros(tokens, 64, dtype=torch.float64)
    for asked in calls:
        gate, up, down = (exact_values(w) for w in (asked.weights.gate, asked.weights.up, asked.weights.down))
        rows = x[asked.tokens].double()
        results = (silu(rows @ gate.T) * (rows @ up.T)) @ down.T
        exact.index_add_(0, asked.tokens, results * asked.scales[:, None].double())
    with pool(2) as opened, pool(3) as other:
        found = experts(opened, x, calls)
        assert torch.equal(experts(other, x, calls), found)
    deviation = (found.double() - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
    assert float(deviation) < EXPERTS_ERROR


def test_an_expert_without_gated_values_gives_nothing_but_zeros() -> None:
    with pool(2) as opened:
        found = experts(opened, torch.zeros(2, 512), some_experts(2))
    assert torch.equal(found, torch.zeros(2, 512))


def test_what_is_not_a_number_is_seen_in_its_token_alone() -> None:
    x = random(3, 512)
    x[1, 100] = torch.nan
    with pool(2) as opened:
        found = experts(opened, x, [call(expert("Q8_0 Q8_0 Q8_0", 64, 512, 1), [0, 1, 2])])
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()
