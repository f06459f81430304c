"""Parts of quantized weights that are missing, do not fit, or contradict config.json."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quant.checkpoint.checkpoint import Checkpoint
from quant.errors import CheckpointError, UnsupportedError
from tests.quant.raw_safetensors import FP8_CONFIG, INT4_CONFIG, fp8_pair, int4_triple, write_folder

Parts = dict[str, Tensor]


def _names(folder: Path, parts: Parts, config: dict) -> tuple[str, ...]:
    with Checkpoint.open(write_folder(folder, {"x.safetensors": parts}, config)) as checkpoint:
        return checkpoint.names


def _without(make: Callable[..., Parts], name: str) -> Parts:
    parts = make("a")
    del parts[name]
    return parts


DAMAGED: list[tuple[dict, Parts, str]] = [
    (FP8_CONFIG, _without(fp8_pair, "a.weight"), "a.weight_scale_inv is there, but a.weight is missing"),
    (FP8_CONFIG, _without(fp8_pair, "a.weight_scale_inv"), "a.weight is there, but a.weight_scale_inv"),
    (FP8_CONFIG, fp8_pair("a") | {"a.weight": torch.ones(130, 70)}, "a.weight is F32, but has block factors"),
    (FP8_CONFIG, fp8_pair("a") | {"a.weight_scale_inv": torch.ones(1, 1)}, r"\[1, 1\], but a.weight .* \[2, 1\]"),
    (FP8_CONFIG, fp8_pair("a") | {"a.weight_scale_inv": torch.ones(2)}, r"shape \[2\], but a.weight"),
    (
        FP8_CONFIG,
        fp8_pair("a") | {"a.weight_scale_inv": torch.ones(2, 1, dtype=torch.uint8)},
        "a.weight_scale_inv has dtype U8",
    ),
    (
        FP8_CONFIG,
        fp8_pair("a") | {"a.weight": torch.ones(4).to(torch.float8_e4m3fn)},
        r"a.weight has shape \[4\], but must be a matrix",
    ),
    ({}, fp8_pair("a"), "a.weight is stored as FP8, but config.json does not declare that"),
    (INT4_CONFIG, fp8_pair("a"), "a.weight is stored as FP8, but config.json does not declare that"),
    (INT4_CONFIG, _without(int4_triple, "a.weight_packed"), "but a.weight_packed is missing"),
    (INT4_CONFIG, _without(int4_triple, "a.weight_scale"), "but a.weight_scale is missing"),
    (INT4_CONFIG, int4_triple("a") | {"a.weight": torch.ones(4, 64)}, "a.weight is stored both packed and"),
    (
        INT4_CONFIG,
        int4_triple("a") | {"a.weight_packed": torch.ones(4, 8)},
        "a.weight_packed has dtype F32, but packed weights are I32",
    ),
    (
        INT4_CONFIG,
        int4_triple("a") | {"a.weight_packed": torch.ones(8, dtype=torch.int32)},
        "must be a matrix",
    ),
    (
        INT4_CONFIG,
        int4_triple("a") | {"a.weight_packed": torch.ones(4, 7, dtype=torch.int32)},
        "packs 56 columns, which groups of 32 do not divide",
    ),
    (
        INT4_CONFIG,
        int4_triple("a") | {"a.weight_scale": torch.ones(4, 1)},
        r"a.weight_scale has shape \[4, 1\], but a.weight_packed \[4, 8\] needs \[4, 2\]",
    ),
    ({}, int4_triple("a"), "a.weight_packed is stored as INT4, but config.json does not declare that"),
    (FP8_CONFIG, int4_triple("a"), "a.weight_packed is stored as INT4, but config.json does not declare"),
    ({}, {"a": torch.ones(1), "language_model.a": torch.ones(1)}, "a is stored with and without the prefix"),
]


@pytest.mark.parametrize(("config", "parts", "message"), DAMAGED)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, config: dict, parts: Parts, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        _names(tmp_path, parts, config)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8, torch.float8_e5m2])
def test_a_weight_of_another_dtype_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedError, match=r"a\.weight has dtype .*, but weights are read only as F32"):
        _names(tmp_path, {"a.weight": torch.zeros(2, 2).to(dtype)}, {})


def test_a_stored_shape_is_not_needed(tmp_path: Path) -> None:
    parts = _without(int4_triple, "a.weight_shape")
    assert _names(tmp_path, parts, INT4_CONFIG) == ("a.weight",)


def test_plain_weights_may_stand_beside_quantized_ones(tmp_path: Path) -> None:
    parts = fp8_pair("a") | {"b.weight": torch.ones(2, 2), "model.layers.0.bias": torch.ones(2)}
    assert set(_names(tmp_path, parts, FP8_CONFIG)) == {"a.weight", "b.weight", "model.layers.0.bias"}


def test_rotary_frequencies_are_not_listed(tmp_path: Path) -> None:
    parts = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "a": torch.ones(1)}
    assert _names(tmp_path, parts, {}) == ("a",)


def test_vision_parts_may_have_any_dtype(tmp_path: Path) -> None:
    parts = {"vision_tower.mask": torch.ones(2, dtype=torch.bool), "mm_projector.x": torch.ones(1), "a": torch.ones(1)}
    with Checkpoint.open(write_folder(tmp_path, {"x.safetensors": parts}, {})) as checkpoint:
        assert (checkpoint.names, checkpoint.skipped) == (("a",), 2)
