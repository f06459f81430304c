"""Reading model files of ours and of other makers, single and in shards."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import gguf
import numpy as np
import pytest

from quant.errors import GgufError
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_writer import TensorSpec
from quant.gguf.number_array import NumberArray
from quant.types import block_type
from tests.quant.gguf_samples import METADATA, SPECS, entry, key, raw_file, tensor_bytes, write_foreign, write_sample

U16, U32, I32 = 2, 4, 5


def shard_keys(number: int, count: int, tensors: int) -> list[bytes]:
    return [
        key("split.no", U16, struct.pack("<H", number)),
        key("split.count", U16, struct.pack("<H", count)),
        key("split.tensors.count", I32, struct.pack("<i", tensors)),
    ]


def one_tensor_shard(number: int, count: int, tensors: int, name: str) -> bytes:
    return raw_file(shard_keys(number, count, tensors), [entry(name, [8], 0, 0)], bytes([number]) * 32)


def write_shards(folder: Path, shards: list[bytes]) -> Path:
    for number, content in enumerate(shards):
        (folder / f"m-{number + 1:05d}-of-{len(shards):05d}.gguf").write_bytes(content)
    return folder / f"m-00001-of-{len(shards):05d}.gguf"


def test_everything_written_is_read_back(tmp_path: Path) -> None:
    with GgufFile.open(write_sample(tmp_path / "a.gguf")) as file:
        assert file.metadata == {item.key: item.value for item in METADATA}
        assert {type(item.value) for item in METADATA} == {str, int, float, bool, list}
        assert all(type(file.metadata[i.key]) in (type(i.value), NumberArray) for i in METADATA)
        assert [file.value_type(item.key) for item in METADATA] == [item.type for item in METADATA]
        assert [(info.name, info.type, info.shape) for info in file.tensors.values()] == [
            (spec.name, spec.type, spec.shape) for spec in SPECS
        ]
        for spec in SPECS:
            tensor, info = file.tensor(spec.name), file.tensors[spec.name]
            assert tensor.data.tobytes() == tensor_bytes(spec).tobytes(), spec.name
            assert (tensor.type, tensor.shape, tensor.nbytes) == (spec.type, spec.shape, info.nbytes)
            content = info.path.read_bytes()[info.offset_bytes : info.offset_bytes + info.nbytes]
            assert content == tensor.data.tobytes()


def test_the_gguf_package_finds_the_same_places(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.gguf")
    with GgufFile.open(path) as file:
        theirs = {tensor.name: (tensor.data_offset, tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
        assert {name: (info.offset_bytes, info.nbytes) for name, info in file.tensors.items()} == theirs


@pytest.mark.parametrize("tensors_per_shard", [0, 1, 3])
@pytest.mark.parametrize("alignment", [None, 8, 4096])
def test_files_of_the_gguf_package_are_read(tmp_path: Path, alignment: int | None, tensors_per_shard: int) -> None:
    values = write_foreign(tmp_path / "m.gguf", alignment=alignment, tensors_per_shard=tensors_per_shard)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == (1 if tensors_per_shard == 0 else -(-len(values) // tensors_per_shard))
    with GgufFile.open(paths[0]) as file:
        assert file.paths == tuple(paths)
        assert file.metadata["tokenizer.ggml.tokens"] == ["a", "bc", "Ġd"]
        assert file.value_type("tokenizer.ggml.token_type") == "array[int32]"
        assert set(file.tensors) == set(values)
        for name, value in values.items():
            assert file.tensor(name).data.tobytes() == value.tobytes(), name
            assert file.tensors[name].offset_bytes % (alignment or 32) == 0


def test_shards_that_all_state_their_alignment_are_read(tmp_path: Path) -> None:
    alignment = key("general.alignment", U32, struct.pack("<I", 4096))
    shards = [
        raw_file([alignment, *shard_keys(n, 2, 2)], [entry(f"t{n}", [8], 0, 0)], bytes([n]) * 4096, alignment=4096)
        for n in range(2)
    ]
    with GgufFile.open(write_shards(tmp_path, shards)) as file:
        assert file.tensor("t1").data.tolist() == [1] * 32


def test_a_shard_with_the_default_alignment_after_an_aligned_one_is_read(tmp_path: Path) -> None:
    alignment = key("general.alignment", U32, struct.pack("<I", 4096))
    first = raw_file([alignment, *shard_keys(0, 2, 2)], [entry("t0", [8], 0, 0)], bytes(4096), alignment=4096)
    with GgufFile.open(write_shards(tmp_path, [first, one_tensor_shard(1, 2, 2, "t1")])) as file:
        assert file.tensor("t1").data.tolist() == [1] * 32


def test_a_shard_that_fits_no_alignment_is_refused(tmp_path: Path) -> None:
    alignment = key("general.alignment", U32, struct.pack("<I", 4096))
    first = raw_file([alignment, *shard_keys(0, 2, 2)], [entry("t0", [8], 0, 0)], bytes(4096), alignment=4096)
    path = write_shards(tmp_path, [first, one_tensor_shard(1, 2, 2, "t1") + bytes(32)])
    with pytest.raises(GgufError, match=r"00002-of-00002.*alignment 4096"):
        GgufFile.open(path)


def test_a_first_shard_may_hold_only_keys(tmp_path: Path) -> None:
    shards = [raw_file(shard_keys(0, 2, 1)), one_tensor_shard(1, 2, 1, "t")]
    with GgufFile.open(write_shards(tmp_path, shards)) as file:
        assert list(file.tensors) == ["t"]


def test_gaps_and_any_order_of_tensors_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    data = b"B" * 32 + bytes(96) + b"A" * 32
    path.write_bytes(raw_file([], [entry("a", [8], 0, 128), entry("b", [4, 2], 0, 0)], data))
    with GgufFile.open(path) as file:
        assert file.tensor("a").data.tobytes() == b"A" * 32
        assert file.tensor("b").data.tobytes() == b"B" * 32
        assert file.tensor("b").shape == (2, 4)


def test_a_model_without_tensors_is_read(tmp_path: Path) -> None:
    with GgufFile.open(write_sample(tmp_path / "a.gguf", METADATA, ())) as file:
        assert file.tensors == {}


def test_tensors_are_views_of_the_map_and_outlive_the_file(tmp_path: Path) -> None:
    file = GgufFile.open(write_sample(tmp_path / "a.gguf"))
    first, second = file.tensor("norm"), file.tensor("norm")
    assert first.address == second.address
    assert not first.data.flags.writeable
    file.close()
    file.close()
    assert first.data.tobytes() == tensor_bytes(SPECS[-3]).tobytes()
    with pytest.raises(ValueError, match="closed"):
        file.tensor("norm")


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    with GgufFile.open(write_sample(tmp_path / "a.gguf")) as file, pytest.raises(GgufError, match="'nothing'"):
        file.tensor("nothing")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.touch(), "is empty"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "a.gguf")
    with pytest.raises(GgufError, match=message):
        GgufFile.open(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("a", [8], 0, 16)], "no multiple of 32"),
        ([entry("a", [17], 0, 0)], "cut off"),
        ([entry("a", [8], 0, 64)], "cut off"),
        ([entry("a", [2**63, 2**63], 0, 0)], "cut off"),
        ([entry("a", [8], 0, 0), entry("b", [8], 0, 0)], "'a' and 'b' overlap"),
        ([entry("a", [8], 0, 0), entry("b", [1], 0, 0)], "'a' and 'b' overlap"),
    ],
)
def test_tensors_that_cannot_lie_there_are_refused(tmp_path: Path, entries: list[bytes], message: str) -> None:
    (tmp_path / "a.gguf").write_bytes(raw_file([], entries, bytes(64)))
    with pytest.raises(GgufError, match=message):
        GgufFile.open(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (one_tensor_shard(0, 2, 2, "b"), "split.no is 0 instead of 1"),
        (one_tensor_shard(1, 3, 2, "b"), "split.count is 3 instead of 2"),
        (one_tensor_shard(1, 2, 5, "b"), "split.tensors.count is 5 instead of 2"),
        (one_tensor_shard(1, 2, 2, "a"), "'a' is in m-00001-of-00002.gguf as well"),
        (raw_file([], [entry("b", [8], 0, 0)], bytes(32)), "split.no is missing instead of uint16"),
        (raw_file(shard_keys(1, 2, 2)), "hold 1 tensors, but split.tensors.count is 2"),
        (one_tensor_shard(1, 2, 2, "b")[:-1], "cut off"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path, second: bytes, message: str) -> None:
    path = write_shards(tmp_path, [one_tensor_shard(0, 2, 2, "a"), second])
    with pytest.raises(GgufError, match=message.replace(".", r"\.")):
        GgufFile.open(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = write_shards(tmp_path, [one_tensor_shard(n, 3, 3, f"t{n}") for n in range(3)])
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(GgufError, match=r"m-00002-of-00003\.gguf is missing"):
        GgufFile.open(path)


def test_opening_another_shard_than_the_first_says_so(tmp_path: Path) -> None:
    write_shards(tmp_path, [one_tensor_shard(n, 2, 2, f"t{n}") for n in range(2)])
    with pytest.raises(GgufError, match="is shard 2 of 2: open the first shard"):
        GgufFile.open(tmp_path / "m-00002-of-00002.gguf")


def test_a_renamed_shard_says_which_name_it_needs(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(one_tensor_shard(0, 2, 2, "a"))
    with pytest.raises(GgufError, match=r"PREFIX-00001-of-00002\.gguf"):
        GgufFile.open(tmp_path / "model.gguf")


def test_the_sum_of_sizes_of_a_whole_model_is_no_limit(tmp_path: Path) -> None:
    # 2 TB of tensors in a sparse file: nothing may depend on reading or allocating them.
    path, spec = tmp_path / "a.gguf", TensorSpec("a", block_type("F32"), (384, 2048, 700_000))
    content = raw_file([], [entry(spec.name, spec.shape[::-1], 0, 0)])
    with path.open("wb") as file:
        file.write(content)
        try:
            file.truncate(len(content) + spec.nbytes)
        except OSError:
            pytest.skip("this file system has no files of 2 TB")
    with GgufFile.open(path) as file:
        assert np.count_nonzero(file.tensor("a").data[-1000:]) == 0


def test_pages_come_in_parts_up_to_the_whole_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.gguf.gguf_file._PART_BYTES", 1 << 16)
    content = raw_file([], [entry("a", [1 << 18], 0, 0)], bytes(1 << 20))
    (tmp_path / "a.gguf").write_bytes(content)
    with GgufFile.open(tmp_path / "a.gguf") as file:
        parts = list(file.page_in(["a"]))
        assert parts == sorted(parts) and parts[-1] == 1 << 20
        assert all(after - before <= 1 << 16 for before, after in zip([0, *parts], parts, strict=False))
        data = file.tensor("a").data
        before = getrusage(RUSAGE_SELF).ru_minflt
        assert not data[::4096].any()
        assert getrusage(RUSAGE_SELF).ru_minflt - before < 16  # of 256 pages


def test_a_file_that_is_cut_off_while_its_pages_come_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(raw_file([], [entry("a", [1 << 18], 0, 0)], bytes(1 << 20)))
    with GgufFile.open(tmp_path / "a.gguf") as file:
        os.truncate(tmp_path / "a.gguf", 1 << 16)
        with pytest.raises(GgufError, match="was cut off while it was loaded"):
            list(file.page_in(file.tensors))
