"""Runs of rows: the same values as the whole tensor, and no byte read beside them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from quant.checkpoint.checkpoint import Checkpoint
from quant.errors import CheckpointError
from quant.files import positioned_read
from tests.quant.raw_safetensors import FP8_CONFIG, INT4_CONFIG, fp8_pair, int4_triple, write_folder

ROWS = 300


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """Tensors of every plain storage, some of them several pieces long."""
    random = torch.randn(ROWS, 8192, generator=torch.Generator().manual_seed(0))
    tensors = {name: random.to(dtype) for name, dtype in _DTYPES.items()}
    tensors |= {"vector": random[0, :5].clone(), "cube": random[:6, :40].reshape(2, 3, 40).contiguous()}
    folder = write_folder(tmp_path_factory.mktemp("plain"), {"x.safetensors": tensors}, {})
    with Checkpoint.open(folder) as checkpoint:
        yield checkpoint


_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Checkpoint]]:
    """One FP8 and one INT4 tensor, in folders of their own."""
    generator = torch.Generator().manual_seed(1)
    fp8, int4 = fp8_pair("a", ROWS, 8200), int4_triple("a", ROWS, 8192)
    codes = torch.randint(0, 255, (ROWS, 8200), generator=generator).to(torch.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    fp8["a.weight"] = codes.view(torch.float8_e4m3fn)
    fp8["a.weight_scale_inv"] = torch.rand(3, 65, generator=generator)
    int4["a.weight_packed"] = torch.randint(-(2**31), 2**31, (ROWS, 1024), generator=generator).to(torch.int32)
    int4["a.weight_scale"] = torch.rand(ROWS, 256, generator=generator).bfloat16()
    folder = tmp_path_factory.mktemp("quantized")
    checkpoints = {
        "FP8": Checkpoint.open(write_folder(folder / "fp8", {"x.safetensors": fp8}, FP8_CONFIG)),
        "INT4": Checkpoint.open(write_folder(folder / "int4", {"x.safetensors": int4}, INT4_CONFIG)),
    }
    yield checkpoints
    for checkpoint in checkpoints.values():
        checkpoint.close()


@pytest.mark.parametrize("name", _DTYPES)
@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (1, 2), (3, 290), (ROWS, ROWS)])
def test_rows_of_plain_tensors_are_the_rows_of_the_whole(plain: Checkpoint, name: str, start: int, stop: int) -> None:
    rows = plain.read_rows(name, start, stop)
    assert rows.dtype == torch.float32 and rows.is_contiguous() and rows.shape == (stop - start, 8192)
    assert torch.equal(rows, plain.read(name)[start:stop])


@pytest.mark.parametrize("name", _DTYPES)
def test_stored_rows_are_the_bytes_of_the_file(plain: Checkpoint, name: str) -> None:
    data = plain.read_stored(name, 7, 290)
    assert data.dtype == np.uint8 and data.ndim == 1
    assert torch.equal(torch.from_numpy(data).view(_DTYPES[name]).float().view(-1, 8192), plain.read(name)[7:290])


def test_a_vector_is_one_row_and_leading_dimensions_are_flattened(plain: Checkpoint) -> None:
    assert plain.read_rows("vector", 0, 1).shape == (1, 5) and plain.read("vector").shape == (5,)
    assert torch.equal(plain.read_rows("cube", 2, 5), plain.read("cube").view(6, 40)[2:5])


@pytest.mark.parametrize("storage", ["FP8", "INT4"])
@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (128, 256), (128, 300), (256, 257), (0, 1), (128, 128)])
def test_rows_of_quantized_tensors_are_the_rows_of_the_whole(
    quantized: dict[str, Checkpoint], storage: str, start: int, stop: int
) -> None:
    whole = quantized[storage].read("a.weight")
    assert torch.equal(quantized[storage].read_rows("a.weight", start, stop), whole[start:stop])


def test_int4_rows_begin_anywhere_and_fp8_rows_with_a_block(quantized: dict[str, Checkpoint]) -> None:
    whole = quantized["INT4"].read("a.weight")
    assert torch.equal(quantized["INT4"].read_rows("a.weight", 37, 201), whole[37:201])
    with pytest.raises(ValueError, match="from 37 on, which is no multiple of 128"):
        quantized["FP8"].read_rows("a.weight", 37, 201)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, ROWS + 1), (5, 4)])
def test_rows_outside_of_the_tensor_are_refused(plain: Checkpoint, start: int, stop: int) -> None:
    with pytest.raises(IndexError, match="BF16"):
        plain.read_stored("BF16", start, stop) if stop < start else plain.read_rows("BF16", start, stop)


def test_nothing_but_the_rows_and_their_scales_is_read(
    quantized: dict[str, Checkpoint], plain: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = [0]
    real = os.preadv

    def counting(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = real(descriptor, buffers, offset)
        read[0] += count
        return count

    monkeypatch.setattr(positioned_read.os, "preadv", counting)
    for checkpoint, name, nbytes in (
        (plain, "BF16", 128 * 8192 * 2),
        (quantized["FP8"], "a.weight", 128 * 8200 + 65 * 4),
        (quantized["INT4"], "a.weight", 128 * 8192 // 2 + 128 * 256 * 2),
    ):
        read[0] = 0
        checkpoint.read_rows(name, 128, 256)
        assert read[0] == nbytes


@pytest.mark.parametrize("dtype", _DTYPES.values())
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_is_placed_in_the_whole_tensor_and_other_rows_are_read(
    tmp_path: Path, dtype: torch.dtype, bad: float
) -> None:
    values = torch.full((3, 4, 5), torch.finfo(dtype).max, dtype=dtype)
    values[1, 3, 2] = bad
    with Checkpoint.open(write_folder(tmp_path, {"x.safetensors": {"a": values}}, {})) as checkpoint:
        assert checkpoint.read_rows("a", 0, 7).isfinite().all()
        checkpoint.read_stored("a", 0, 7)
        for ask in (checkpoint.read_rows, checkpoint.read_stored):
            with pytest.raises(CheckpointError, match=r"tensor a of .*x\.safetensors .* first at \[1, 3, 2\]"):
                ask("a", 6, 12)


def test_quantized_tensors_have_no_plain_bytes(quantized: dict[str, Checkpoint]) -> None:
    with pytest.raises(CheckpointError, match="is stored as INT4, which is no plain number format"):
        quantized["INT4"].read_stored("a.weight", 0, 1)
