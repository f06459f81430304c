"""Grouping tokens by expert, and the door to experts in mapped memory."""

import torch

from offload.mapped_experts import FusedExperts, MappedExperts, StackedExperts
from offload.token_groups import group_by_expert
from quant.encode.encode import encode
from quant.kernels import make_kernels
from quant.tensor import QuantizedTensor
from quant.types import block_type

F32 = block_type("F32")


def tensor(*shape: int, seed: int) -> QuantizedTensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5
    return QuantizedTensor(F32, shape, encode(values, F32))


def floats(t: QuantizedTensor) -> torch.Tensor:
    return torch.from_numpy(t.data.view("float32").copy()).view(t.shape)


def test_groups_hold_each_choice_once_with_its_weight():
    ids = torch.tensor([[2, 0], [0, 5], [2, 5]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    groups = {g.expert: (g.tokens.tolist(), g.scales.tolist()) for g in group_by_expert(ids, weights)}
    assert list(groups) == [0, 2, 5]
    assert groups[0][0] == [0, 1] and groups[2][0] == [0, 2] and groups[5][0] == [1, 2]
    torch.testing.assert_close(torch.tensor(groups[2][1]), torch.tensor([0.1, 0.5]))


def test_output_is_the_weighted_sum_of_the_chosen_experts():
    gate, up, down = tensor(6, 16, 32, seed=1), tensor(6, 16, 32, seed=2), tensor(6, 32, 16, seed=3)
    experts = MappedExperts({3: StackedExperts(gate, up, down)}, make_kernels("reference", threads=1))
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(4))
    ids = torch.tensor([[0, 1], [1, 2], [5, 0], [1, 5]])
    weights = torch.rand(4, 2, generator=torch.Generator().manual_seed(5))
    expected = torch.zeros(4, 32)
    g, u, d = floats(gate), floats(up), floats(down)
    for token in range(4):
        for slot in range(2):
            e = ids[token, slot]
            hidden = torch.nn.functional.silu(g[e] @ x[token]) * (u[e] @ x[token])
            expected[token] += weights[token, slot] * (d[e] @ hidden)
    torch.testing.assert_close(experts.forward(3, x, ids, weights), expected, rtol=1e-5, atol=1e-6)
    one_expert = 3 * 16 * 32 * 4
    assert experts.counters() == {"ram_experts": 4, "ram_bytes": 4 * one_expert}


def test_fused_gate_and_up_are_the_same_experts():
    gate, up, down = tensor(3, 16, 32, seed=1), tensor(3, 16, 32, seed=2), tensor(3, 32, 16, seed=3)
    both = torch.cat([floats(gate), floats(up)], dim=1).contiguous()
    fused = FusedExperts(QuantizedTensor(F32, tuple(both.shape), encode(both, F32)), down)
    stacked = StackedExperts(gate, up, down)
    assert fused.expert_bytes == stacked.expert_bytes
    for index in range(3):
        for part in ("gate", "up", "down"):
            a, b = getattr(fused.expert(index), part), getattr(stacked.expert(index), part)
            assert a.shape == b.shape and (a.data == b.data).all()
