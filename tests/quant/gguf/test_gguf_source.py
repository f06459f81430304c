"""Rows of GGUF files of every type, single and in shards, read without mapping the file."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quant.encode.decode import dequantize
from quant.encode.encode import encode
from quant.errors import GgufError
from quant.gguf.gguf_source import GgufSource
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from quant.tensor import QuantizedTensor
from quant.types import block_type
from tests.quant.gguf_samples import METADATA, write_foreign

ROWS, COLS = 600, 2048  # more than one piece
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4")
SCALE_BYTES = {"Q8_0": (0, 2), "Q4_0": (0, 2), "Q4_K": (0, 2)}


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], np.ndarray]]) -> Path:
    """A file of tensors by name: type, shape, bytes."""
    specs = [TensorSpec(name, block_type(kind), shape) for name, (kind, shape, _) in tensors.items()]
    with GgufWriter(path, METADATA, specs) as writer:
        for name, (_, _, data) in tensors.items():
            writer.write(name, data)
        writer.finish()
    return path


@pytest.fixture(scope="module")
def encoded() -> dict[str, np.ndarray]:
    """The same random matrix in every type."""
    values = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    return {name: encode(values, block_type(name)) for name in TYPES}


@pytest.fixture(scope="module")
def sample(encoded: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {f"{name}.weight": (name, (ROWS, COLS), data) for name, data in encoded.items()}
    tensors["cube"] = "Q8_0", (6, ROWS // 6, COLS), encoded["Q8_0"]
    tensors["vector"] = "F32", (COLS,), encoded["F32"][: 4 * COLS]
    return write(tmp_path_factory.mktemp("gguf") / "all.gguf", tensors)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (1, 2), (37, 590), (ROWS, ROWS)])
def test_rows_are_those_of_the_gguf_packages_decoder(
    sample: Path, encoded: dict[str, np.ndarray], name: str, start: int, stop: int
) -> None:
    whole = QuantizedTensor(block_type(name), (ROWS, COLS), encoded[name])
    source = GgufSource.open(sample)
    values = source.read_rows(f"{name}.weight", start, stop)
    assert values.dtype == torch.float32 and values.is_contiguous() and values.shape == (stop - start, COLS)
    assert torch.equal(values, dequantize(whole.row_range(start, stop)))
    stored = source.read_stored(f"{name}.weight", start, stop)
    assert stored.dtype == np.uint8 and np.array_equal(stored, whole.row_range(start, stop).data)
    source.close()


def test_leading_dimensions_are_flattened(sample: Path) -> None:
    source = GgufSource.open(sample)
    assert torch.equal(source.read_rows("cube", 150, 250), source.read_rows("Q8_0.weight", 150, 250))
    assert source.read_rows("vector", 0, 1).shape == (1, COLS)
    source.close()


def test_all_keys_come_with_their_stored_types(sample: Path) -> None:
    source = GgufSource.open(sample)
    assert [(entry.key, entry.type) for entry in source.metadata] == [(entry.key, entry.type) for entry in METADATA]
    assert source.metadata[0] == MetadataEntry("general.architecture", "string", "deepseek2")
    source.close()


@pytest.mark.parametrize("alignment", [None, 4096])
def test_shards_of_other_makers_are_read_as_one(tmp_path: Path, alignment: int | None) -> None:
    values = write_foreign(tmp_path / "m.gguf", alignment=alignment, tensors_per_shard=3)
    source = GgufSource.open(tmp_path / "m-00001-of-00003.gguf")
    assert list(source.identities) == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for name, expected in values.items():
        assert np.array_equal(source.read_rows(name, 0, len(expected)).numpy(), expected)
    source.close()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the list of mapped files in /proc")
def test_the_file_is_open_but_not_mapped_and_closed_at_the_end(sample: Path) -> None:
    def opened() -> list[str]:
        return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]

    source = GgufSource.open(sample)
    source.read_rows("Q8_0.weight", 0, ROWS)
    assert str(sample) not in Path("/proc/self/maps").read_text()
    assert opened().count(str(sample)) == 1
    source.close()
    source.close()
    assert str(sample) not in opened()
    with pytest.raises(ValueError, match="is closed"):
        source.read_rows("vector", 0, 1)


def _nan_in_number(kind: str) -> Callable[[np.ndarray], None]:
    dtype = {"F32": np.float32, "F16": np.float16}.get(kind)

    def change(data: np.ndarray) -> None:
        if kind == "BF16":
            data.view(np.uint16)[5 * COLS + 7] = 0x7F80
        elif dtype is not None:
            data.view(dtype)[5 * COLS + 7] = -np.inf
        else:
            block = block_type(kind)
            begin, end = SCALE_BYTES[kind]
            at = 5 * block.row_bytes(COLS)
            data[at + begin : at + end] = (0x00, 0x7C)

    return change


@pytest.mark.parametrize(("kind", "col"), [("F32", 7), ("F16", 7), ("BF16", 7), ("Q8_0", 0), ("Q4_K", 0)])
def test_numbers_that_are_not_finite_are_refused_with_their_place(
    tmp_path: Path, encoded: dict[str, np.ndarray], kind: str, col: int
) -> None:
    data = encoded[kind].copy()
    _nan_in_number(kind)(data)
    source = GgufSource.open(write(tmp_path / "bad.gguf", {"a": (kind, (2, ROWS // 2, COLS), data)}))
    assert source.read_rows("a", 6, ROWS).isfinite().all()
    source.read_stored("a", 6, ROWS)
    for ask in (source.read_rows, source.read_stored):
        with pytest.raises(GgufError, match=rf"tensor a of .*bad\.gguf holds \d+ weights .* first at \[0, 5, {col}\]"):
            ask("a", 3, ROWS)
    source.close()


def test_wrong_questions_are_answered_with_the_name(sample: Path) -> None:
    source = GgufSource.open(sample)
    with pytest.raises(GgufError, match="no tensor 'b'"):
        source.read_rows("b", 0, 1)
    for start, stop in ((-1, 1), (0, ROWS + 1), (2, 1)):
        with pytest.raises(IndexError, match=r"of F32\.weight, which has 600"):
            source.read_stored("F32.weight", start, stop)
    source.close()


def test_a_file_cut_while_it_is_open_is_an_error_and_not_a_signal(tmp_path: Path, sample: Path) -> None:
    copy = tmp_path / "cut.gguf"
    copy.write_bytes(sample.read_bytes())
    source = GgufSource.open(copy)
    os.truncate(copy, 10_000)
    with pytest.raises(GgufError, match=r"cut\.gguf ends after .* in the middle of tensor MXFP4.weight"):
        source.read_rows("MXFP4.weight", 0, ROWS)
    source.close()


def test_identity_changes_with_the_header_but_not_with_the_name(tmp_path: Path, sample: Path) -> None:
    def identity(path: Path) -> str:
        source = GgufSource.open(path)
        source.close()
        return source.identities[path.name]

    copy = tmp_path / "copy.gguf"
    content = sample.read_bytes()
    copy.write_bytes(content)
    os.utime(copy, ns=(7, 7))
    first = identity(copy)
    assert identity(copy.rename(tmp_path / "other.gguf")) == first
    copy.write_bytes(content.replace("Grüße, 世界".encode(), "Grüße; 世界".encode()))
    os.utime(copy, ns=(7, 7))
    assert identity(copy) != first
