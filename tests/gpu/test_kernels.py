"""Every kernel on the card against float64 products of what the gguf package decodes."""

import pytest
import torch

from quant.kernels.card import CardKernels
from tests.quant.kernels.card_samples import (
    BFLOAT16_ERROR,
    EXPERT_ERROR,
    FLOAT32_ERROR,
    TYPES,
    Experts,
    random,
    random_slots,
    relative_error,
    routed,
    sample,
)

pytestmark = pytest.mark.gpu

LAYOUTS = [
    (("Q4_K", "Q6_K"), 2048, 7168),
    (("Q4_K", "Q4_K"), 512, 256),
    (("Q4_0", "Q4_0"), 96, 160),
    (("Q4_K", "Q5_0"), 1408, 2048),
    (("Q6_K", "Q8_0"), 1408, 512),
    (("Q8_0", "Q8_0"), 1408, 2048),
    (("Q5_K", "Q5_K"), 256, 768),
    (("IQ4_XS", "IQ4_XS"), 512, 1280),
]


@pytest.mark.parametrize(("rows", "cols"), [(33, 256), (65, 1280), (401, 7168)])
@pytest.mark.parametrize("name", TYPES)
def test_linear(kernels: CardKernels, device: torch.device, name: str, rows: int, cols: int) -> None:
    w, exact = sample(name, (rows, cols), device)
    for tokens in (1, 2, 3, 5, 7, 8, 9, 70) if cols == 1280 else (1, 9):
        x = random(tokens, cols, device=device)
        found = kernels.linear(x, w)
        tolerance = FLOAT32_ERROR if tokens <= 8 else BFLOAT16_ERROR
        assert relative_error(found, x.double().cpu() @ exact.T) < tolerance, tokens
        assert torch.equal(found, kernels.linear(x, w)), "a second run gives other bits"


@pytest.mark.parametrize("cols", [32, 160, 1408])
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_0"])
def test_linear_of_rows_that_are_multiples_of_32_only(
    kernels: CardKernels, device: torch.device, name: str, cols: int
) -> None:
    w, exact = sample(name, (37, cols), device)
    for tokens, tolerance in ((1, FLOAT32_ERROR), (4, FLOAT32_ERROR), (9, BFLOAT16_ERROR)):
        x = random(tokens, cols, device=device)
        assert relative_error(kernels.linear(x, w), x.double().cpu() @ exact.T) < tolerance


@pytest.mark.parametrize("tokens", [1, 8, 40])
@pytest.mark.parametrize(("name", "heads", "rows", "cols"), [("Q5_0", 64, 512, 128), ("Q4_K", 16, 128, 512)])
def test_heads(
    kernels: CardKernels, device: torch.device, name: str, heads: int, rows: int, cols: int, tokens: int
) -> None:
    w, exact = sample(name, (heads, rows, cols), device)
    x = random(tokens, heads, cols, device=device)
    wanted = torch.einsum("thc,hrc->thr", x.double().cpu(), exact)
    assert relative_error(kernels.linear_heads(x, w), wanted) < (FLOAT32_ERROR if tokens <= 8 else BFLOAT16_ERROR)


@pytest.mark.parametrize("name", TYPES)
def test_rows(kernels: CardKernels, device: torch.device, name: str) -> None:
    w, exact = sample(name, (300, 7168), device)
    ids = torch.tensor([299, 0, 0, 151], device=device)
    assert relative_error(kernels.rows(w, ids), exact[ids.cpu()]) < 1e-6


@pytest.mark.parametrize(("types", "ff", "hidden"), LAYOUTS)
def test_experts(kernels: CardKernels, device: torch.device, types: tuple[str, str], ff: int, hidden: int) -> None:
    experts = Experts(types, ff, hidden, count=7, device=device)
    for tokens in (1, 3, 9, 33):
        x = random(tokens, hidden, device=device)
        slots, weights = routed(random_slots(tokens, 4, 7, absent=3), device)
        found = kernels.experts(x, experts.table, slots, weights)
        tolerance = EXPERT_ERROR * (FLOAT32_ERROR if tokens <= 8 else BFLOAT16_ERROR)
        assert relative_error(found, experts.exact(x, slots, weights)) < tolerance, tokens
        assert torch.equal(found, kernels.experts(x, experts.table, slots, weights)), "a second run gives other bits"


@pytest.mark.parametrize("tokens", [1, 8, 20])
def test_experts_that_are_all_or_none_here(kernels: CardKernels, device: torch.device, tokens: int) -> None:
    experts = Experts(("Q4_K", "Q6_K"), 256, 512, count=8, device=device)
    x = random(tokens, 512, device=device)
    slots, weights = routed([list(range(8))] * tokens, device)
    tolerance = EXPERT_ERROR * (FLOAT32_ERROR if tokens <= 8 else BFLOAT16_ERROR)
    found = kernels.experts(x, experts.table, slots, weights)
    assert relative_error(found, experts.exact(x, slots, weights)) < tolerance
    assert not kernels.experts(x, experts.table, torch.full_like(slots, -1), weights).any()


def test_experts_recorded_in_a_graph_follow_the_table(kernels: CardKernels, device: torch.device) -> None:
    experts = Experts(("Q4_K", "Q4_K"), 256, 256, count=6, device=device)
    x = random(1, 256, device=device)
    slots, weights = routed([[0, 1, 2]], device)
    kernels.experts(x, experts.table, slots, weights)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = kernels.experts(x, experts.table, slots, weights)
    for chosen in ([0, 1, 2], [5, -1, 3], [-1, -1, -1]):
        slots.copy_(torch.tensor([chosen], dtype=torch.int32))
        graph.replay()
        exact = experts.exact(x, slots, weights)
        if exact.any():
            assert relative_error(found, exact) < EXPERT_ERROR * FLOAT32_ERROR
        else:
            assert not found.any()


def test_experts_in_several_chunks_give_the_same_bits(
    kernels: CardKernels, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = Experts(("Q4_K", "Q4_K"), 256, 256, count=9, device=device)
    x = random(200, 256, device=device)
    slots, weights = routed(random_slots(200, 4, 9, absent=2), device)
    once = kernels.experts(x, experts.table, slots, weights)
    for limit in ("experts_together", "places_together"):  # one expert at a time, then 7 tokens of one
        number = 1 if limit == "experts_together" else 7
        monkeypatch.setattr(f"quant.kernels.triton.grouped.{limit}", lambda *_, number=number: number)
        alone = kernels.experts(x, experts.table, slots, weights)
        assert relative_error(alone, once.double().cpu()) < 1e-6
    assert relative_error(alone, experts.exact(x, slots, weights)) < EXPERT_ERROR * BFLOAT16_ERROR
