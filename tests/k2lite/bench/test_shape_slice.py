"""What a slice's layers say about the whole model, by figures that can be added up by hand."""

import pytest

from k2lite.bench.shape_slice import estimate, plan_slice, whole_config


def test_the_whole_has_its_own_number_of_layers() -> None:
    stages = {
        "embedding": 1.0,
        "head": 4.0,
        "attention": 6.0,
        "norms and rest": 3.0,
        "dense layers": 5.0,
        "router": 1.0,
        "experts": 19.0,
        "sampling": 11.0,
    }
    profile = {
        "layers": 3,
        "dense_layers": 1,
        "total_ms": 50.0,
        "stages": {name: {"ms": ms} for name, ms in stages.items()},
    }
    # Without clocks a token takes 19.5 ms, half of the 39 that the clocks saw outside of the sampling.
    summary = {"profile": profile, "decode_tokens_per_s": 1000 / 19.5, "machine": {"memory_bytes": 1}}
    found = estimate("k2", summary)
    whole = whole_config("k2")
    assert found["outer_ms"] == pytest.approx(2.5)
    assert found["dense_layer_ms"] == pytest.approx(1.5 + 2.5)
    assert found["expert_layer_ms"] == pytest.approx(1.5 + 5.0)
    assert whole.n_dense_layers == 1
    assert found["token_ms"] == pytest.approx(2.5 + 4.0 + 60 * 6.5)
    assert found["is_estimate"] is True
    assert found["weight_bytes"] == pytest.approx(620.6e9, rel=1e-3)


GIB, ROOM = 1 << 30, 1 << 50


def test_a_slice_is_paged_as_the_whole_would_be() -> None:
    plan = plan_slice("k2", 192 * GIB, ROOM)
    assert 0.2 < plan.whole_share < 0.3
    assert plan.paged_share == pytest.approx(plan.whole_share, rel=0.05)
    slots = plan.paged_share * 2 * plan.experts
    assert slots >= 2 * whole_config("k2").experts_per_token - 1, "a layer's reads have places to go to"


def test_the_less_is_in_ram_the_more_experts_a_slice_needs() -> None:
    few, many = plan_slice("k2", 192 * GIB, ROOM), plan_slice("k2", 96 * GIB, ROOM)
    assert few.experts < many.experts <= 384
    assert many.paged_share == pytest.approx(many.whole_share, rel=0.05)


def test_a_slice_that_would_be_too_large_has_a_larger_share_in_ram() -> None:
    small = plan_slice("k2", 24 * GIB, ROOM)
    assert small.experts < 150
    assert 1 > small.paged_share > small.whole_share > 0
    assert plan_slice("k2", 192 * GIB, 12 * GIB).experts == 32


@pytest.mark.parametrize("memory", [4, 800])
def test_where_nothing_would_be_paged_there_are_few_experts(memory: int) -> None:
    plan = plan_slice("k2", memory * GIB, ROOM)
    assert (plan.experts, plan.paged_share) == (32, 1.0)
