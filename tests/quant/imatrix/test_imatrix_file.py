"""Files of statistics: both forms, and what is wrong with them."""

import math
import struct
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest

from quant.errors import GgufError, ImatrixError, K2Error, OutputError
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry
from quant.imatrix.imatrix import Imatrix
from quant.imatrix.imatrix_file import MAX_NUMBERS, ImatrixHeader, Statistics, open_statistics, write_statistics
from tests.quant.gguf_samples import entry, key, raw_file
from tests.quant.imatrix_samples import DOWN, GATE, KEYS, QUERY, legacy_bytes, sample, write_gguf


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", sample())
    with closing(open_statistics(path)) as file:
        assert file.header == ImatrixHeader(("wiki.txt",), 3, 512)
        assert set(file.names) == set(sample())
        for name, expected in sample().items():
            assert np.array_equal(file.read(name).sums, expected.sums)
            assert np.array_equal(file.read(name).counts, expected.counts)
            assert file.shape(name) == expected.sums.shape


def test_the_file_is_what_llama_cpp_expects(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(write_gguf(tmp_path / "a.gguf", sample()))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.datasets"] == ["wiki.txt"]
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (3, 512)
    assert "general.architecture" not in fields
    shapes = {tensor.name: tuple(tensor.shape.tolist()) for tensor in reader.tensors}  # fastest dimension first
    assert (shapes[f"{GATE}.in_sum2"], shapes[f"{GATE}.counts"]) == ((8, 3), (1, 3))
    assert (shapes[f"{QUERY}.in_sum2"], shapes[f"{QUERY}.counts"]) == ((8,), (1,))
    assert (shapes[f"{KEYS}.in_sum2"], shapes[f"{KEYS}.counts"]) == ((8,), (1,))


def test_a_file_of_the_gguf_package_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "")
    writer.kv_data[0].clear()  # no architecture, as llama.cpp writes it
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a.txt", "b.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 256)
    sums = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer.add_tensor(f"{DOWN}.in_sum2", sums)
    writer.add_tensor(f"{DOWN}.counts", np.array([[2], [0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with closing(open_statistics(tmp_path / "a.gguf")) as file:
        assert file.header == ImatrixHeader(("a.txt", "b.txt"), 7, 256)
        assert np.array_equal(file.read(DOWN).sums, sums)
        assert file.read(DOWN).counts.tolist() == [2, 0]


@pytest.mark.parametrize("trailer", [None, (3, "t.txt")])
def test_the_older_form_is_read(tmp_path: Path, trailer: tuple[int, str] | None) -> None:
    path = tmp_path / "a.dat"
    path.write_bytes(legacy_bytes({QUERY: (4, [8, 12]), GATE: (0, [5, 6, 7, 8])}, trailer))
    with closing(open_statistics(path)) as file:
        assert file.header == (ImatrixHeader(("t.txt",), 3, 0) if trailer else ImatrixHeader((), 0, 0))
        assert (file.read(QUERY).sums.tolist(), file.read(QUERY).counts.tolist()) == ([[8, 12]], [4])
        assert file.read(GATE).counts.tolist() == [1]  # a divisor of 0 divides nothing
        assert file.shape(GATE) == (1, 4)


def test_a_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", sample())
    write_gguf(path, {QUERY: sample()[QUERY]})
    with closing(open_statistics(path)) as file:
        assert file.names == (QUERY,)
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", sample())
    before = path.read_bytes()

    def broken():
        yield QUERY, sample()[QUERY]
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        write_statistics(path, ImatrixHeader((), 0, 512), {QUERY: (1, 8), KEYS: (1, 8)}, broken())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*a\.gguf"):
        write_gguf(tmp_path / "a.gguf", sample())


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    for name, whole in (
        ("a.gguf", write_gguf(tmp_path / "whole.gguf", sample()).read_bytes()),
        ("a.dat", legacy_bytes({QUERY: (4, [8, 12]), GATE: (1, [5, 6, 7, 8])})),
    ):
        path = tmp_path / name
        legal = [len(legacy_bytes({QUERY: (4, [8, 12]), GATE: (1, [5, 6, 7, 8])}, None))]
        for size in range(0, len(whole) - (31 if name == "a.gguf" else 0), 7):
            path.write_bytes(whole[:size])
            if name == "a.dat" and size in legal:
                continue
            with pytest.raises(K2Error, match=r"a\.(gguf|dat)"):
                Imatrix.open(path).close()


def test_no_changed_byte_does_more_than_raise_an_error(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    path = tmp_path / "a"
    for whole in (write_gguf(tmp_path / "whole", sample()).read_bytes(), legacy_bytes({QUERY: (4, [8.0, 12])})):
        for _ in range(200):
            data = bytearray(whole)
            data[random.integers(len(data))] = random.integers(256)
            path.write_bytes(data)
            try:
                with Imatrix.open(path) as imatrix:
                    for name in imatrix.names:
                        imatrix.importance(name, (8, 8))
            except K2Error:
                continue


def test_lengths_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """A sparse file that claims more numbers than any weight has."""
    path = tmp_path / "a.gguf"
    keys = [
        key("imatrix.datasets", 9, struct.pack("<IQ", 8, 0)),
        key("imatrix.chunk_count", 4, struct.pack("<I", 1)),
        key("imatrix.chunk_size", 4, struct.pack("<I", 512)),
    ]
    entries = [entry("x.counts", [1], 0, 0), entry("x.in_sum2", [MAX_NUMBERS + 1], 0, 32)]
    path.write_bytes(raw_file(keys, entries))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 32 + 4 * MAX_NUMBERS + 64)
    with pytest.raises(GgufError, match="expected fitting F32"):
        open_statistics(path)
    path.write_bytes(struct.pack("<iii", 1, 2**31 - 1, 0) + bytes(40))
    with pytest.raises(ImatrixError, match="2147483647 bytes"):
        open_statistics(path)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"general.type": "model"}, "is a model, not an importance matrix"),
        ({"general.architecture": "deepseek2"}, "not an importance matrix"),
        ({"imatrix.chunk_count": None}, "imatrix.chunk_count"),
        ({"imatrix.chunk_size": "many"}, "imatrix.chunk_size"),
    ],
)
def test_other_gguf_files_are_refused(tmp_path: Path, entries: dict[str, str | None], problem: str) -> None:
    keys: dict[str, tuple[str, object]] = {
        "general.type": ("string", "imatrix"),
        "imatrix.datasets": ("array[string]", []),
        "imatrix.chunk_count": ("uint32", 1),
        "imatrix.chunk_size": ("uint32", 1),
    }
    keys |= {name: ("string", value) for name, value in entries.items()}
    metadata = [MetadataEntry(name, kind, value) for name, (kind, value) in keys.items() if value is not None]
    with GgufWriter(tmp_path / "a.gguf", metadata, []) as writer:
        writer.finish()
    with pytest.raises(ImatrixError, match=problem):
        open_statistics(tmp_path / "a.gguf")


@pytest.mark.parametrize("name", ["x.in_sum2", "x.counts", "x.weight"])
def test_a_tensor_without_its_other_half_is_refused(tmp_path: Path, name: str) -> None:
    path = write_gguf(tmp_path / "a.gguf", sample())
    data = path.read_bytes().replace(f"{QUERY}.counts".encode(), name.ljust(len(f"{QUERY}.counts"), "_").encode())
    path.write_bytes(data)
    with pytest.raises(GgufError, match="is not one of two tensors"):
        open_statistics(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"not a file of numbers at all", bytes(100)])
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dat"
    path.write_bytes(content)
    with pytest.raises(ImatrixError, match=r"a\.dat"):
        open_statistics(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match=r"cannot open .*absent"):
        open_statistics(tmp_path / "absent")
    with pytest.raises(ImatrixError, match="cannot open"):
        open_statistics(tmp_path)


def test_statistics_that_do_not_belong_together_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        Statistics(np.ones((3, 4), np.float32), np.ones(2, np.float32))
    assert math.isclose(Statistics(np.ones((3, 4)), np.ones(3)).sums.sum(), 12)
