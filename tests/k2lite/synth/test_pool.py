"""Rings of random weights."""

import math

import numpy as np
import pytest
import torch

from k2lite.synth import pool as synth_pool
from k2lite.synth.pool import FP8_CODE_STD, PoolKey, Pools, format_named, label_number, make_rings, next_prime
from quant.checkpoint.int4 import Int4Weights, decode_int4
from quant.encode.decode import dequantize
from quant.tensor import QuantizedTensor
from quant.types import block_type

WEIGHTS = 256 * 300


def read(key: PoolKey, label: str, weights: int, *, plane: int = 0, seed: int = 0, need: int = WEIGHTS) -> np.ndarray:
    with Pools(seed, {key: need}, threads=1) as pools:
        return np.concatenate(list(pools.read(key, plane, label, weights)))


@pytest.mark.parametrize(
    "name",
    ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "MXFP4", pytest.param("IQ3_XXS", marks=pytest.mark.slow)],
)
def test_blocks_decode_to_weights_of_the_wanted_spread(name: str) -> None:
    data = read(PoolKey(name, 0.02), "a", WEIGHTS)
    values = dequantize(QuantizedTensor(block_type(name), (300, 256), data))
    assert torch.isfinite(values).all()
    assert float(values.mean()) == pytest.approx(0, abs=0.001)
    assert float(values.std()) == pytest.approx(0.02, rel=0.1)


def test_fp8_codes_are_gaussian_and_never_nan() -> None:
    data = torch.from_numpy(read(PoolKey("FP8", 1.0), "a", WEIGHTS))
    values = data.view(torch.float8_e4m3fn).float()
    assert torch.isfinite(values).all()
    assert float(values.std()) == pytest.approx(FP8_CODE_STD, rel=0.02)
    # in one block of 128x128 the largest code is near the largest there is
    assert 350 < float(values[: 128 * 128].abs().max()) <= 448
    kurtosis = float((values / values.std()).pow(4).mean())
    assert kurtosis == pytest.approx(3, abs=0.2)


def test_fp8_scales_make_weights_of_the_wanted_spread() -> None:
    scales = read(PoolKey("FP8_SCALE", 0.0118), "a", 5000).view(np.float32)
    assert scales.min() > 0
    assert scales.mean() * FP8_CODE_STD == pytest.approx(0.0118, rel=0.02)
    assert 0.05 < scales.std() / scales.mean() < 0.2


def test_int4_words_and_scales_belong_together() -> None:
    key = PoolKey("INT4", 0.02)
    words = read(key, "a", 64 * 256).view(np.int32).reshape(64, 32)
    scales = torch.from_numpy(read(key, "a", 64 * 256, plane=1)).view(torch.bfloat16).view(64, 8)
    values = decode_int4(Int4Weights(torch.from_numpy(words), scales))
    assert float(values.std()) == pytest.approx(0.02, rel=0.1)
    levels = (values.view(64, 8, 32) / scales.float()[..., None]).round()
    # each group reaches the end of its range, as quantizing by the largest weight makes it
    assert (levels.abs().amax(-1) == 7).all()


def test_a_short_ring_is_read_round_and_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth_pool, "RING_BYTES", 101 * 34)
    ring = make_rings(PoolKey("Q8_0", 1.0), 10**9, seed=0)[0]
    once = np.concatenate(list(ring.read(0, 101 * 34)))
    twice = np.concatenate(list(ring.read(40, 150 * 34)))
    assert np.array_equal(twice, np.concatenate([once, once])[40 * 34 : 190 * 34])


def test_no_two_rows_of_a_matrix_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth_pool, "RING_BYTES", 2048 * 144)
    with Pools(0, {PoolKey("Q4_K", 1.0): 10**9}, threads=1) as pools:
        data = np.concatenate(list(pools.read(PoolKey("Q4_K", 1.0), 0, "a", 2000 * 1024)))
    rows = data.reshape(2000, 4 * 144)
    assert len(np.unique(rows, axis=0)) == 2000


def test_more_weights_than_are_drawn_are_a_mixture_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth_pool, "_DRAWN_WEIGHTS", 256 * 8)
    key = PoolKey("BF16", 1.0)
    rows = make_rings(key, 256 * 100, seed=0)[0].read(0, 512 * 100)
    pieces = np.unique(np.concatenate(list(rows)).reshape(100, 512), axis=0)
    assert 6 <= len(pieces) <= 8


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    key = PoolKey("BF16", 1.0)
    first = read(key, "a", 1000)
    assert np.array_equal(first, read(key, "a", 1000))
    assert not np.array_equal(first, read(key, "b", 1000))
    assert not np.array_equal(first, read(key, "a", 1000, seed=1))


def test_bytes_do_not_depend_on_threads_or_on_other_pools() -> None:
    key, other = PoolKey("Q8_0", 1.0), PoolKey("F32", 1.0)
    with Pools(3, {other: WEIGHTS, key: WEIGHTS}, threads=4) as pools:
        data = np.concatenate(list(pools.read(key, 0, "a", 3200)))
    assert np.array_equal(data, read(key, "a", 3200, seed=3))


@pytest.mark.parametrize(("number", "prime"), [(0, 2), (2, 2), (8, 11), (90, 97), (7919, 7919)])
def test_the_next_prime(number: int, prime: int) -> None:
    assert next_prime(number) == prime


def test_labels_spread_over_the_whole_ring() -> None:
    places = [label_number(0, f"model.layers.3.mlp.experts.{e}") % 1009 for e in range(384)]
    assert len(set(places)) > 300
    assert min(places) < 50 and max(places) > 950


def test_every_recipe_has_its_formats() -> None:
    for name in ("FP8", "FP8_SCALE", "INT4", "Q4_K", "IQ1_M"):
        form = format_named(name)
        assert math.prod(form.unit_bytes) > 0 and form.drawn % 256 == 0
