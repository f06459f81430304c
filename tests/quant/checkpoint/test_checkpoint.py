"""Whole checkpoint folders of every family, against the values that were known when they were written."""

import os
from pathlib import Path

import pytest
import torch

from quant.checkpoint.checkpoint import Checkpoint
from quant.errors import CheckpointError, UnsupportedError
from tests.quant.raw_safetensors import FP8_CONFIG, INT4_CONFIG, fp8_pair, int4_triple, write_folder
from tests.tiny import build
from tests.tiny_families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("index", [True, False])
def test_every_tensor_of_a_family_is_read_exactly(tmp_path: Path, family: str, index: bool) -> None:
    tiny = build(family, experts=8, expert_width=128)
    with Checkpoint.open(tiny.write(tmp_path, index=index)) as checkpoint:
        assert checkpoint.config == tiny.config
        assert set(checkpoint.names) == set(tiny.state)
        assert len(checkpoint.names) == len(tiny.state)
        for name, exact in tiny.state.items():
            values = checkpoint.read(name)
            assert values.dtype == torch.float32 and values.is_contiguous()
            assert checkpoint.shape(name) == values.shape == exact.shape
            assert torch.equal(values, exact), name


@pytest.mark.parametrize(
    ("family", "part", "storage"),
    [
        ("k2", "mlp.experts.0.up_proj.weight", "FP8"),
        ("k2", "self_attn.kv_a_proj_with_mqa.weight", "FP8"),
        ("k2", "mlp.gate.weight", "BF16"),
        ("k2", "mlp.gate.e_score_correction_bias", "F32"),
        ("k2.5", "mlp.experts.0.up_proj.weight", "INT4"),
        ("k2.5", "mlp.shared_experts.up_proj.weight", "BF16"),
        ("moonlight", "mlp.experts.0.up_proj.weight", "BF16"),
        ("moonlight", "mlp.gate.e_score_correction_bias", "BF16"),
    ],
)
def test_storage_says_how_a_tensor_is_kept(tmp_path: Path, family: str, part: str, storage: str) -> None:
    with Checkpoint.open(build(family, experts=8, expert_width=128).write(tmp_path)) as checkpoint:
        assert checkpoint.storage(f"model.layers.1.{part}") == storage


def test_vision_parts_are_counted_and_not_listed(tmp_path: Path) -> None:
    with Checkpoint.open(build("k2.5", experts=8, expert_width=128).write(tmp_path)) as checkpoint:
        assert checkpoint.skipped == 4
        assert not [n for n in checkpoint.names if "vision" in n or "mm_projector" in n or "language" in n]


def test_a_garbled_stored_shape_does_not_matter(tmp_path: Path) -> None:
    parts = int4_triple("a") | {"a.weight_shape": torch.tensor([-7, 123456], dtype=torch.int32)}
    with Checkpoint.open(write_folder(tmp_path, {"x.safetensors": parts}, INT4_CONFIG)) as checkpoint:
        assert checkpoint.shape("a.weight") == checkpoint.read("a.weight").shape == (4, 64)


def test_the_parts_of_a_weight_may_lie_in_different_files(tmp_path: Path) -> None:
    values, scales = fp8_pair("a").items()
    shards = {"1.safetensors": dict([values]), "2.safetensors": dict([scales])}
    with Checkpoint.open(write_folder(tmp_path, shards, FP8_CONFIG)) as checkpoint:
        assert checkpoint.names == ("a.weight",)
        assert checkpoint.read("a.weight").shape == (130, 70)


def test_files_reached_through_links_are_read(tmp_path: Path) -> None:
    tiny = build("moonlight", experts=4, expert_width=32)
    stored = tiny.write(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in stored.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(Path("..") / "blobs" / path.name)
    with Checkpoint.open(tmp_path / "snapshot") as checkpoint:
        assert torch.equal(checkpoint.read("model.norm.weight"), tiny.state["model.norm.weight"])


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"x.safetensors": {"a": torch.ones(1)}}, {})
    with Checkpoint.open(folder) as checkpoint:
        for ask in (checkpoint.read, checkpoint.shape, checkpoint.storage):
            with pytest.raises(CheckpointError, match="tensor b is not among the 1 of"):
                ask("b")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused_with_the_place(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    values = torch.zeros(4, 5, dtype=dtype)
    values[2, 3] = values[3, 0] = bad
    folder = write_folder(tmp_path, {"x.safetensors": {"good": torch.ones(2), "bad": values}}, {})
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.read("good").sum() == 2
        with pytest.raises(CheckpointError, match=r"tensor bad of .* 2 weights .* first at \[2, 3\]"):
            checkpoint.read("bad")


def test_an_fp8_code_that_means_nan_is_refused(tmp_path: Path) -> None:
    parts = fp8_pair("a")
    parts["a.weight"].view(torch.uint8)[129, 69] = 0x7F
    with (
        Checkpoint.open(write_folder(tmp_path, {"x.safetensors": parts}, FP8_CONFIG)) as checkpoint,
        pytest.raises(CheckpointError, match=r"tensor a.weight .* 1 weights .* first at \[129, 69\]"),
    ):
        checkpoint.read("a.weight")


def test_scales_that_are_not_finite_are_refused_in_both_ways_of_reading(tmp_path: Path) -> None:
    parts = int4_triple("a")
    parts["a.weight_scale"][3, 1] = float("inf")
    with Checkpoint.open(write_folder(tmp_path, {"x.safetensors": parts}, INT4_CONFIG)) as checkpoint:
        with pytest.raises(CheckpointError, match=r"tensor a.weight .* 32 weights .* first at \[3, 32\]"):
            checkpoint.read("a.weight")
        with pytest.raises(CheckpointError, match=r"tensor a.weight .* 1 scales .* first at \[3, 1\]"):
            checkpoint.read_q4_0("a.weight", 0, 4)


def test_a_folder_without_a_readable_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        Checkpoint.open(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"config\.json: No such file"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        Checkpoint.open(tmp_path)


def test_an_unknown_quantization_is_refused_before_any_shard_is_opened(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {}, {"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(UnsupportedError, match="quant_method is 'awq'"):
        Checkpoint.open(folder)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the list of open files in /proc")
def test_files_are_closed_after_use_and_after_a_failure(tmp_path: Path) -> None:
    before = _open_files()
    shards = {"1.safetensors": {"a": torch.ones(1)}, "2.safetensors": {"b": torch.ones(1)}}
    folder = write_folder(tmp_path, shards, {})
    with Checkpoint.open(folder):
        assert _open_files() == before + 2
    assert _open_files() == before
    os.truncate(folder / "2.safetensors", 20)
    with pytest.raises(CheckpointError):
        Checkpoint.open(folder)
    assert _open_files() == before
