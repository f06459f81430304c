"""Single safetensors files: what is read, how much, and every way in which a header can lie."""

import json
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from quant.checkpoint import safetensors_file
from quant.checkpoint.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile
from quant.errors import CheckpointError, K2Error, UnsupportedError
from quant.files import positioned_read
from tests.quant.raw_safetensors import f32_entry, write_raw


def _tensors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "f32": torch.randn(3, 5, generator=random),
        "bf16": torch.randn(7, generator=random).to(torch.bfloat16),
        "f16": torch.randn(2, 2, 2, generator=random).to(torch.float16),
        "fp8": torch.randn(3, 3, generator=random).to(torch.float8_e4m3fn),
        "i32": torch.tensor([[-1, 2**31 - 1]], dtype=torch.int32),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "bool": torch.tensor([True, False]),
    }


def test_every_tensor_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_file(_tensors(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert set(file.tensors) == set(_tensors())
    for name, saved in _tensors().items():
        read = file.read(file.tensors[name])
        assert read.dtype == saved.dtype and read.shape == saved.shape
        assert torch.equal(read.contiguous().view(-1).view(torch.uint8), saved.view(-1).view(torch.uint8))
    file.close()


def test_only_the_bytes_of_the_tensor_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"big": torch.zeros(1000, 100), "small": torch.ones(10)}, path)
    file = SafetensorsFile(path)
    counts: list[int] = []
    preadv = os.preadv

    def counting(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        counts.append(preadv(descriptor, buffers, offset))
        return counts[-1]

    monkeypatch.setattr(safetensors_file.os, "preadv", counting)
    assert file.read(file.tensors["small"]).sum() == 10
    assert sum(counts) == 40
    file.close()


def test_a_long_tensor_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positioned_read, "_MAX_READ_BYTES", 16)
    values = torch.arange(33, dtype=torch.float32)
    save_file({"x": values}, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert torch.equal(file.read(file.tensors["x"]), values)
    file.close()


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    saved = {f"t{i}": torch.full((1000,), float(i)) for i in range(8)}
    save_file(saved, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    wrong: list[str] = []

    def read_all() -> None:
        for _ in range(20):
            wrong.extend(n for n, v in saved.items() if not torch.equal(file.read(file.tensors[n]), v))

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    file.close()


LYING_HEADERS: list[tuple[Any, str]] = [
    ([1], "where an object is expected"),
    ({"x": [1]}, "entry of x is not"),
    ({"x": {"dtype": "F32", "shape": [2]}}, "entry of x is not"),
    ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, "entry of x is not"),
    ({"x": {"dtype": "F32", "shape": [2], "data_offsets": 8}}, "entry of x is not"),
    ({"x": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, "not numbers of 0 or more"),
    ({"x": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, "not numbers of 0 or more"),
    ({"x": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, "not numbers of 0 or more"),
    ({"x": f32_entry(-8, 0, [2])}, "not numbers of 0 or more"),
    ({"x": f32_entry(0, 8, [-1, -2])}, "not numbers of 0 or more"),
    ({"x": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}}, "not numbers of 0 or more"),
    ({"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, "has dtype"),
    ({"x": f32_entry(0, 8, [1] * 9)}, "has 9 dimensions"),
    ({"x": f32_entry(0, 8, [3])}, "takes 12 bytes as F32 .3., but the header gives it 8"),
    ({"x": f32_entry(8, 0, [2])}, "takes 8 bytes .* gives it -8"),
    ({"x": f32_entry(0, 2**70, [2**68])}, "truncated"),
    ({"x": f32_entry(12, 20, [2])}, "ends at .*: the file is truncated"),
    ({"x": f32_entry(0, 8, [2]), "y": f32_entry(4, 12, [2])}, "tensors x and y share bytes"),
]


@pytest.mark.parametrize(("header", "message"), LYING_HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, message: str) -> None:
    path = write_raw(tmp_path / "a.safetensors", header, bytes(16))
    with pytest.raises(K2Error, match=message):
        SafetensorsFile(path)


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    entry = {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}
    with pytest.raises(UnsupportedError, match="x has dtype 'F4'; known are BOOL, U8"):
        SafetensorsFile(write_raw(tmp_path / "a.safetensors", {"x": entry}, b"a"))


def test_a_repeated_name_is_refused(tmp_path: Path) -> None:
    entry = json.dumps(f32_entry(0, 8, [2]))
    raw = f'{{"x": {entry}, "x": {entry}}}'.encode()
    with pytest.raises(CheckpointError, match="'x' appears twice"):
        SafetensorsFile(write_raw(tmp_path / "a.safetensors", raw, bytes(8)))


@pytest.mark.parametrize("length", [3, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_header_length_beyond_file_or_limit_is_refused(tmp_path: Path, length: int) -> None:
    path = write_raw(tmp_path / "a.safetensors", b"{}", b"", length=length)
    with pytest.raises(CheckpointError, match=f"declares a header of {length} bytes"):
        SafetensorsFile(path)


def test_a_header_over_the_limit_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.safetensors", b"{}", b"", length=MAX_HEADER_BYTES + 1)
    os.truncate(path, 4 * MAX_HEADER_BYTES)  # a sparse file: the length alone would pass
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="declares a header"):
        SafetensorsFile(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize("kept_bytes", [0, 5])
def test_a_file_shorter_than_its_length_field_is_truncated(tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(kept_bytes))
    with pytest.raises(CheckpointError, match="in the middle of the header length"):
        SafetensorsFile(path)


def test_every_truncation_of_a_file_is_noticed_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(3), "y": torch.ones(2)}, path)
    whole = path.read_bytes()
    for kept_bytes in range(len(whole)):
        path.write_bytes(whole[:kept_bytes])
        with pytest.raises(CheckpointError):
            SafetensorsFile(path)


def test_a_file_cut_after_it_was_opened_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(300)}, path)
    file = SafetensorsFile(path)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(CheckpointError, match="in the middle of tensor x: download it again"):
        file.read(file.tensors["x"])
    file.close()


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        SafetensorsFile(path)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", ".", "pipe"):
        with pytest.raises(CheckpointError, match="is missing or not a file"):
            SafetensorsFile(tmp_path / name)


def test_a_refused_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raw(tmp_path / "a.safetensors", {"x": [1]}, b"")
    closed: list[int] = []
    close = os.close

    def counting(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    monkeypatch.setattr(safetensors_file.os, "close", counting)
    with pytest.raises(CheckpointError):
        SafetensorsFile(path)
    assert len(closed) == 1


def test_reading_after_close_is_an_error_of_the_program(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3)}, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    file.close()
    file.close()
    with pytest.raises(ValueError, match="is closed"):
        file.read(file.tensors["x"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**20), st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_leaves_tensors_inside_the_file(tmp_path: Path, position: int, value: int) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"first": torch.ones(3, 2), "second": torch.ones(2, dtype=torch.float16)}, path)
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] = value
    path.write_bytes(raw)
    try:
        file = SafetensorsFile(path)
    except K2Error:
        return
    for stored in file.tensors.values():
        assert file.read(stored).nbytes == stored.nbytes <= len(raw)
    file.close()


def test_rows_are_read_into_a_buffer_that_is_given(tmp_path: Path) -> None:
    values = torch.arange(12, dtype=torch.float32).view(2, 2, 3)
    save_file({"a": values}, tmp_path / "x.safetensors")
    file, buffer = SafetensorsFile(tmp_path / "x.safetensors"), torch.zeros(64, dtype=torch.uint8)
    rows = file.read_rows(file.tensors["a"], 1, 3, buffer)
    assert torch.equal(rows, values.view(4, 3)[1:3]) and rows.data_ptr() == buffer.data_ptr()
    assert torch.equal(file.read_rows(file.tensors["a"], 0, 4), values.view(4, 3))
    for start, stop in ((-1, 1), (0, 5), (2, 1)):
        with pytest.raises(IndexError, match=r"of a, which has 4"):
            file.read_rows(file.tensors["a"], start, stop)
    file.close()


def test_identity_changes_with_length_time_and_header(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"a": f32_entry(0, 4, [1])}, bytes(4))
    os.utime(path, ns=(1, 1))

    def identity() -> str:
        file = SafetensorsFile(path)
        file.close()
        return file.identity

    identities = {identity()}
    assert identity() in identities
    os.utime(path, ns=(2, 2))
    identities.add(identity())
    write_raw(path, {"b": f32_entry(0, 4, [1])}, bytes(4))
    os.utime(path, ns=(1, 1))
    identities.add(identity())
    write_raw(path, {"a": f32_entry(0, 4, [1])}, bytes(5))
    os.utime(path, ns=(1, 1))
    identities.add(identity())
    assert len(identities) == 4


def test_the_system_is_told_that_long_runs_will_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, offset, length, advised: advice.append(advised))
    save_file({"x": torch.ones(3)}, tmp_path / "a.safetensors")
    SafetensorsFile(tmp_path / "a.safetensors").close()
    assert advice == [os.POSIX_FADV_SEQUENTIAL]
