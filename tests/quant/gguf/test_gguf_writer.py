"""What we write is what the gguf package reads, and a file appears whole or not at all."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from quant.errors import OutputError, UnsupportedError
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from quant.types import block_type
from tests.quant.gguf_samples import METADATA, SPECS, tensor_bytes, write_sample

F32 = block_type("F32")
TYPE_NAMES = {"float32": "FLOAT32", "float64": "FLOAT64", "string": "STRING", "bool": "BOOL"}


def gguf_package_types(kind: str) -> list[str]:
    """The type names of the gguf package for one of ours."""
    if kind.startswith("array["):
        return ["ARRAY", *gguf_package_types(kind[6:-1])]
    return [TYPE_NAMES.get(kind, kind.upper())]


def test_the_gguf_package_reads_the_same_keys_and_types(tmp_path: Path) -> None:
    fields = gguf.GGUFReader(write_sample(tmp_path / "a.gguf")).fields
    assert [name for name in fields if not name.startswith("GGUF.")] == [entry.key for entry in METADATA]
    for entry in METADATA:
        assert fields[entry.key].contents() == entry.value, entry.key
        assert [kind.name for kind in fields[entry.key].types] == gguf_package_types(entry.type), entry.key


def test_the_gguf_package_reads_the_same_tensors(tmp_path: Path) -> None:
    tensors = gguf.GGUFReader(write_sample(tmp_path / "a.gguf")).tensors
    assert [tensor.name for tensor in tensors] == [spec.name for spec in SPECS]
    end = 0
    for tensor, spec in zip(tensors, SPECS, strict=True):
        assert tensor.tensor_type.name == spec.type.name
        assert tuple(tensor.shape.tolist()[::-1]) == spec.shape
        assert tensor.n_bytes == spec.nbytes
        assert tensor.data.tobytes() == tensor_bytes(spec).tobytes(), spec.name
        # llama.cpp refuses gaps, and any offset that is not a multiple of 32.
        assert tensor.data_offset % 32 == 0
        assert end == 0 or tensor.data_offset == end
        end = tensor.data_offset + -(-spec.nbytes // 32) * 32
    assert (tmp_path / "a.gguf").stat().st_size == end


def test_the_size_is_known_before_anything_is_written(tmp_path: Path) -> None:
    writer = GgufWriter(tmp_path / "a.gguf", METADATA, SPECS)
    assert list(tmp_path.iterdir()) == []
    assert writer.total_bytes == write_sample(tmp_path / "b.gguf").stat().st_size


def test_a_tensor_may_come_in_pieces(tmp_path: Path) -> None:
    spec = TensorSpec("a", F32, (3, 5))
    with GgufWriter(tmp_path / "a.gguf", METADATA, [spec]) as writer:
        for byte in tensor_bytes(spec):
            writer.write("a", bytes([byte]))
        writer.finish()
    assert (tmp_path / "a.gguf").read_bytes() == write_sample(tmp_path / "b.gguf", METADATA, [spec]).read_bytes()


def test_nothing_is_left_without_finish(tmp_path: Path) -> None:
    with GgufWriter(tmp_path / "a.gguf", METADATA, SPECS) as writer:
        writer.write(SPECS[0].name, tensor_bytes(SPECS[0]))
        assert [path.name for path in tmp_path.iterdir()] == ["a.gguf.part"]
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_file_cannot_be_finished(tmp_path: Path) -> None:
    with GgufWriter(tmp_path / "a.gguf", (), SPECS) as writer, pytest.raises(ValueError, match="is not complete"):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        write_sample(tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_text() == "precious"


@pytest.mark.parametrize(("name", "count"), [("b", 20), ("a", 21), ("c", 1)])
def test_the_order_and_size_of_tensors_are_held(tmp_path: Path, name: str, count: int) -> None:
    specs = [TensorSpec("a", F32, (5,)), TensorSpec("b", F32, (5,))]
    with GgufWriter(tmp_path / "a.gguf", (), specs) as writer, pytest.raises(ValueError, match="written"):
        writer.write(name, bytes(count))


def test_writing_behind_the_last_tensor_is_refused(tmp_path: Path) -> None:
    with GgufWriter(tmp_path / "a.gguf", (), [TensorSpec("a", F32, (1,))]) as writer:
        writer.write("a", bytes(4))
        with pytest.raises(ValueError, match="nothing is due"):
            writer.write("a", bytes(4))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint32", -1),
        ("uint32", 2**32),
        ("uint32", 1.0),
        ("bool", "false"),
        ("float32", 1e39),
        ("string", 7),
        ("string", "\ud800"),
        ("array[string]", ["a", 1]),
        ("array[int32]", [2**31]),
        ("array[uint8]", 3),
        ("u32", 3),
        ("array[array[uint8]]", [[3]]),
    ],
)
def test_a_value_that_its_type_cannot_hold_is_refused_by_name(tmp_path: Path, kind: str, value: object) -> None:
    with pytest.raises(OutputError, match=r"'some\.key'"):
        GgufWriter(tmp_path / "a.gguf", [MetadataEntry("some.key", kind, value)], ())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec("x" * 64, F32, (1,)), "longer than 63 bytes"),
        (TensorSpec("a", F32, ()), "shape"),
        (TensorSpec("a", F32, (1, 1, 1, 1, 1)), "shape"),
        (TensorSpec("a", F32, (0, 4)), "shape"),
    ],
)
def test_a_tensor_that_the_format_cannot_hold_is_refused(tmp_path: Path, spec: TensorSpec, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        GgufWriter(tmp_path / "a.gguf", (), [spec])


def test_a_row_that_blocks_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Q4_K"):
        GgufWriter(tmp_path / "a.gguf", (), [TensorSpec("a", block_type("Q4_K"), (1, 128))])


def test_names_and_keys_are_unique(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'a' would be in the file twice"):
        GgufWriter(tmp_path / "a.gguf", (), [TensorSpec("a", F32, (1,))] * 2)
    with pytest.raises(OutputError, match=r"'a\.uint8' would be in the file twice"):
        GgufWriter(tmp_path / "a.gguf", (METADATA[1],) * 2, ())


def test_another_alignment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"general\.alignment"):
        GgufWriter(tmp_path / "a.gguf", [MetadataEntry("general.alignment", "uint32", 4096)], ())


def test_arrays_of_any_layout_keep_their_bytes(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    with GgufWriter(tmp_path / "a.gguf", (), [TensorSpec("a", F32, (2, 3))]) as writer:
        writer.write("a", values)
        writer.finish()
    assert gguf.GGUFReader(tmp_path / "a.gguf").tensors[0].data.tolist() == values.tolist()
