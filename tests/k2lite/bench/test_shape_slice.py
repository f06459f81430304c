"""What a slice's layers say about the whole model, by figures that can be added up by hand."""

import pytest

from k2lite.bench.shape_slice import estimate, whole_config


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
