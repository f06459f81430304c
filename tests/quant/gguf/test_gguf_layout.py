"""Layouts are what the writer writes; shards keep layers together and open by the name of the first."""

from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from quant.convert.job import convert
from quant.convert.output_layout import OutputFile, OutputLayout
from quant.errors import OutputError
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from quant.types import block_type
from tests.quant.convert_samples import SHAPES, sample_job
from tests.quant.gguf_samples import METADATA, SPECS, tensor_bytes, write_sample

F32 = block_type("F32")


def layers(count: int, rows: int = 100) -> list[TensorSpec]:
    """An embedding, layers of two tensors of 4,000 bytes each, and a head."""
    inner = [
        TensorSpec(f"blk.{layer}.{name}.weight", F32, (rows, 10)) for layer in range(count) for name in ("up", "down")
    ]
    return [TensorSpec("token_embd.weight", F32, (rows, 10)), *inner, TensorSpec("output.weight", F32, (rows, 10))]


def names(layout: OutputLayout) -> list[list[str]]:
    return [[tensor.name for tensor in file.tensors] for file in layout.files]


def test_one_file_is_laid_out_as_the_writer_writes_it(tmp_path: Path) -> None:
    layout = gguf_layout(tmp_path / "a.gguf", METADATA, SPECS)
    written = write_sample(tmp_path / "b.gguf").read_bytes()
    (file,) = layout.files
    assert file.path == layout.destination and layout.total_bytes == file.nbytes == len(written)
    assert written.startswith(file.header)
    for tensor, start, spec in zip(file.tensors, file.starts, SPECS, strict=True):
        assert written[start : start + tensor.nbytes] == tensor_bytes(spec).tobytes()
        assert written[start + tensor.nbytes :][: tensor.padding] == bytes(tensor.padding)


def test_what_fits_into_a_shard_is_one_plain_file(tmp_path: Path) -> None:
    whole = gguf_layout(tmp_path / "a.gguf", METADATA, SPECS)
    assert gguf_layout(tmp_path / "a.gguf", METADATA, SPECS, whole.total_bytes) == whole
    assert len(gguf_layout(tmp_path / "a.gguf", METADATA, SPECS, whole.total_bytes - 1).files) > 1


@pytest.mark.parametrize("shard_bytes", [9_000, 13_000, 20_000, 50_000])
def test_no_shard_is_too_long_and_no_layer_is_torn(tmp_path: Path, shard_bytes: int) -> None:
    specs = layers(12)
    layout = gguf_layout(tmp_path / "a.gguf", METADATA[:1], specs, shard_bytes)
    assert all(file.nbytes <= shard_bytes for file in layout.files)
    assert [name for shard in names(layout) for name in shard] == [spec.name for spec in specs]
    for layer in range(12):
        assert sum(any(name.startswith(f"blk.{layer}.") for name in shard) for shard in names(layout)) == 1
    count = len(layout.files)
    assert [file.path.name for file in layout.files] == [f"a-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]


def test_a_layer_longer_than_a_shard_is_cut_between_its_tensors(tmp_path: Path) -> None:
    layout = gguf_layout(tmp_path / "a.gguf", (), layers(2), 5_000)
    assert names(layout) == [[spec.name] for spec in layers(2)]


def test_a_tensor_longer_than_a_shard_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"token_embd\.weight takes 4,\d+ bytes .* shards of at least 4,\d+ bytes"):
        gguf_layout(tmp_path / "a.gguf", (), layers(2), 4_000)


def test_metadata_longer_than_a_shard_is_refused(tmp_path: Path) -> None:
    long = MetadataEntry("a.text", "string", "x" * 20_000)
    with pytest.raises(OutputError, match="the metadata takes"):
        gguf_layout(tmp_path / "a.gguf", [long], layers(2), 10_000)


def test_more_shards_than_the_format_counts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.gguf.gguf_layout.MAX_SHARDS", 3)
    with pytest.raises(OutputError, match="would be 6 shards, but names count to 3: choose larger ones"):
        gguf_layout(tmp_path / "a.gguf", (), layers(2), 5_000)


@pytest.mark.parametrize("name", [".", "/"])
def test_a_destination_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(OutputError, match="name a file"):
        gguf_layout(Path(name), (), layers(1))


def test_shards_are_read_back_as_one_model(tmp_path: Path) -> None:
    convert(sample_job(tmp_path / "whole.gguf"), verify=False)
    report = convert(sample_job(tmp_path / "a.gguf", shard_bytes=450_000))
    with GgufFile.open(report.files[0]) as shards, GgufFile.open(tmp_path / "whole.gguf") as whole:
        assert list(shards.tensors) == list(whole.tensors) == list(SHAPES)
        for name in SHAPES:
            assert shards.tensor(name).data.tobytes() == whole.tensor(name).data.tobytes()
    for number, path in enumerate(report.files):
        fields = gguf.GGUFReader(path).fields
        split = {key: fields[key].contents() for key in ("split.no", "split.count", "split.tensors.count")}
        assert split == {"split.no": number, "split.count": len(report.files), "split.tensors.count": len(SHAPES)}
        assert ("general.architecture" in fields) == (number == 0)


def test_the_digest_follows_the_bytes_and_not_the_folder(tmp_path: Path) -> None:
    layout = gguf_layout(tmp_path / "a.gguf", METADATA, SPECS)
    assert gguf_layout(tmp_path / "sub" / "a.gguf", METADATA, SPECS).digest == layout.digest
    others = [
        gguf_layout(tmp_path / "a.gguf", METADATA[:1], SPECS),
        gguf_layout(tmp_path / "a.gguf", METADATA, SPECS[:-1]),
        gguf_layout(tmp_path / "b.gguf", METADATA, SPECS),
        gguf_layout(tmp_path / "a.gguf", METADATA, [replace(SPECS[0], name="x"), *SPECS[1:]]),
    ]
    assert len({layout.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("files", "is_folder"),
    [
        ((), False),
        ((OutputFile(Path("a"), b"x"), OutputFile(Path("a"), b"y")), False),
        ((OutputFile(Path("a"), b""),), False),
        ((OutputFile(Path("a/b/c"), b"x"),), True),
    ],
)
def test_a_layout_that_makes_no_sense_is_a_bug(files: tuple[OutputFile, ...], is_folder: bool) -> None:
    with pytest.raises(ValueError, match=r"laid out|lie in"):
        OutputLayout(Path("a"), files, is_folder)


def test_the_plain_writer_still_writes_the_same_header(tmp_path: Path) -> None:
    layout = gguf_layout(tmp_path / "a.gguf", METADATA, SPECS)
    assert GgufWriter(tmp_path / "a.gguf", METADATA, SPECS).total_bytes == layout.total_bytes
