"""Files of other layouts are collected like those of ours: with kv_b in one tensor, with gate and up in one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from k2lite.cli.main import main
from k2lite.imatrix import ImatrixJob, collect_imatrix
from quant.imatrix.imatrix import Imatrix
from quant.imatrix.imatrix_file import open_statistics
from tests.k2lite.test_load import with_gate_and_up_in_one_tensor, with_kv_b_in_one_tensor
from tests.tiny import write_checkpoint

TEXT = "The quick brown fox jumps over 12 lazy dogs; they are not amused, and say so: woof! " * 2


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("layouts") / "k2", "k2", layers=2, experts=4)
    assert main(["quantize", str(folder), str(folder / "k2.gguf"), "--type", "F32", "--no-verify"]) == 0
    return folder / "k2.gguf"


def collected(model: Path, path: Path) -> dict[str, np.ndarray]:
    collect_imatrix(ImatrixJob(model, TEXT, "fox.txt", path, 32, kernels="reference", threads=1))
    file = open_statistics(path)
    return {name: file.read(name).sums for name in file.names}


def test_kv_b_in_one_tensor_is_counted_as_its_two_halves(original: Path, tmp_path: Path) -> None:
    old = collected(with_kv_b_in_one_tensor(original, tmp_path / "old.gguf"), tmp_path / "a")
    ours = collected(original, tmp_path / "b")
    assert set(old) == set(ours)
    assert all(np.allclose(old[name], ours[name], rtol=1e-4) for name in ours)


def test_fused_experts_serve_files_with_two_tensors_and_the_other_way_round(original: Path, tmp_path: Path) -> None:
    names = [f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "up")]
    name = "blk.1.ffn_gate_up_exps.weight"
    fused = with_gate_and_up_in_one_tensor(original, tmp_path / "fused.gguf")
    theirs, ours = collected(fused, tmp_path / "a"), collected(original, tmp_path / "b")
    assert set(ours) - set(theirs) == set(names) and set(theirs) - set(ours) == {name}
    with Imatrix.open(tmp_path / "a") as first, Imatrix.open(tmp_path / "b") as second:
        assert all(map(first.covers, names)) and second.covers(name)
        torch.testing.assert_close(first.importance(names[1], (4, 256, 256)), second.importance(name, (4, 512, 256)))
