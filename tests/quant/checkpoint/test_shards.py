"""Which files make up a checkpoint: indexes that lie, missing and superfluous shards."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quant.checkpoint.shards import INDEX_NAME, open_shards
from quant.errors import CheckpointError


def _write(folder: Path, shards: dict[str, list[str]], index: Any = None) -> Path:
    """`shards` maps file names to tensor names; `index` is the weight_map."""
    for file_name, names in shards.items():
        save_file({name: torch.ones(2) for name in names}, folder / file_name)
    if index is not None:
        (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _names(folder: Path) -> list[str]:
    with ExitStack() as stack:
        return list(open_shards(folder, stack))


def test_without_an_index_all_files_are_read(tmp_path: Path) -> None:
    assert _names(_write(tmp_path, {"b.safetensors": ["b"], "a.safetensors": ["z", "c"]})) == ["c", "z", "b"]


def test_with_an_index_only_its_files_are_read(tmp_path: Path) -> None:
    shards = {"a.safetensors": ["a"], "b.safetensors": ["b"], "other.safetensors": ["a"]}
    assert _names(_write(tmp_path, shards, {"a": "a.safetensors", "b": "b.safetensors"})) == ["a", "b"]


def test_a_tensor_that_the_index_forgot_is_still_found(tmp_path: Path) -> None:
    assert _names(_write(tmp_path, {"a.safetensors": ["a", "b"]}, {"a": "a.safetensors"})) == ["a", "b"]


def test_a_shard_named_by_the_index_but_missing_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"a.safetensors": ["a"]}, {"a": "a.safetensors", "b": "b.safetensors"})
    with pytest.raises(CheckpointError, match=r"b\.safetensors is missing"):
        _names(folder)


def test_a_tensor_named_by_the_index_but_missing_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"a.safetensors": ["a"]}, {"a": "a.safetensors", "b": "a.safetensors"})
    with pytest.raises(CheckpointError, match=r"says that a\.safetensors holds b, but it does not"):
        _names(folder)


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path: Path) -> None:
    shards = {"1.safetensors": ["a", "b"], "2.safetensors": ["c"]}
    index = {"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}
    with pytest.raises(CheckpointError, match=r"says that 2\.safetensors holds b"):
        _names(_write(tmp_path, shards, index))


def test_a_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    shards = {"1.safetensors": ["a", "b"], "2.safetensors": ["b"]}
    folder = _write(tmp_path, shards)
    with pytest.raises(CheckpointError, match=r"tensor b is in 1\.safetensors and again in 2\.safetensors"):
        _names(folder)
    _write(folder, {}, {"a": "1.safetensors", "b": "2.safetensors"})
    with pytest.raises(CheckpointError, match="tensor b is in"):
        _names(folder)


@pytest.mark.parametrize(
    "file_name",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/a.safetensors",
        "..\\a.safetensors",
        "C:a.safetensors",
        "a\0.safetensors",
        "a.bin",
        "..",
        "",
        None,
        ["a.safetensors"],
    ],
)
def test_an_index_may_not_name_files_outside_the_folder(tmp_path: Path, file_name: Any) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    for target in (tmp_path / "secret.safetensors", inner / "sub" / "a.safetensors"):
        save_file({"a": torch.ones(1)}, target)
    with pytest.raises(CheckpointError, match="which is not a file of this folder"):
        _names(_write(inner, {}, {"a": file_name}))


@pytest.mark.parametrize("index", [{}, [], "x"])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, index: Any) -> None:
    with pytest.raises(CheckpointError, match="has no weight_map"):
        _names(_write(tmp_path, {"a.safetensors": ["a"]}, index))


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"a.safetensors": ["a"]})
    (folder / INDEX_NAME).write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        _names(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file"):
        _names(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["model-00001-of-000003.safetensors", "model-00003-of-000003.safetensors"],
        ["model-1-of-61.safetensors"],
        ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model-1-of-3.safetensors"],
    ],
)
def test_without_an_index_a_gap_in_the_numbers_is_refused(tmp_path: Path, files: list[str]) -> None:
    folder = _write(tmp_path, {name: [f"t{i}"] for i, name in enumerate(files)})
    with pytest.raises(CheckpointError, match=f"holds {len(files)} numbered files, but"):
        _names(folder)
