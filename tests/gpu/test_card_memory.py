"""What a chunk takes on a real card, as torch counts it, beside what is planned for it."""

from dataclasses import replace

import pytest
import torch

from k2lite.card_memory import expert_scratch_bytes, expert_token_bytes
from k2lite.config_json import config_from_json
from k2lite.kv_cache import KvCache
from k2lite.rope import Rope
from k2lite.synth.families import shape_named
from quant.kernels.card import SlotTable
from quant.kernels.triton.grouped import many_experts
from quant.types import block_type
from tests.k2lite.wide_layers import Nothing, layer_on, planned_layer

pytestmark = pytest.mark.gpu

K2 = replace(config_from_json(shape_named("k2").config), n_layers=2)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("tokens", "before"), [(4096, 0), (8192, 24576), (100, 32668)])
def test_a_layer_takes_what_is_planned(device: torch.device, dense: bool, tokens: int, before: int) -> None:
    layer = layer_on(device, K2, dense)
    with torch.inference_mode():
        cache = KvCache(K2, before + tokens, [layer.home] * 2)
        cache.advance(before)
        cosines, sines = (table.to(device) for table in Rope(K2).rotations(before, tokens))
        for _ in range(2):  # what is made once is there the second time
            x = torch.ones(tokens, K2.hidden_size, device=device)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated() - x.nbytes
            layer.forward(0, x, cache, (cosines, sines), Nothing())  # type: ignore[arg-type]
            most = torch.cuda.max_memory_allocated() - held
            del x
    planned = planned_layer(K2, tokens, before + tokens)
    assert 0.4 * planned < most <= planned, f"{most / 1e6:.0f} MB of {planned / 1e6:.0f}"


def test_experts_take_what_is_planned(device: torch.device) -> None:
    block, tokens, count = block_type("Q4_K"), 4096, 48
    c = replace(K2, n_experts=count)
    each = [block.nbytes((c.expert_width, c.hidden_size))] * 3
    arena = torch.zeros(count * sum(each), dtype=torch.uint8, device=device)
    starts = torch.arange(count)[:, None] * sum(each) + torch.tensor([0, each[0], 2 * each[0]])
    experts = SlotTable(arena, starts.to(device), block, block, c.expert_width, c.hidden_size)
    slots = torch.stack([torch.randperm(count)[: c.experts_per_token] for _ in range(tokens)]).int().to(device)
    x = torch.ones(tokens, c.hidden_size, dtype=torch.bfloat16, device=device)
    scales = torch.ones(slots.shape, device=device)
    many_experts(x, experts, slots, scales)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() - x.nbytes - slots.nbytes - scales.nbytes
    many_experts(x, experts, slots, scales)
    most = torch.cuda.max_memory_allocated() - held
    planned = expert_scratch_bytes(c, c.n_experts) + tokens * expert_token_bytes(c)
    assert 0.6 * planned < most <= planned, f"{most / 1e6:.0f} MB of {planned / 1e6:.0f}"
