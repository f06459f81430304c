"""GGUF files as sources: types that are taken, keys that are carried over, and files that are refused."""

import os
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import k2lite.quantize.gguf_source
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from k2lite.quantize.source import QuantizeSource, open_source, plan_source
from quant.convert.codec import BlockCodec
from quant.convert.job import convert
from quant.convert.job_types import ConvertJob, PlannedTensor
from quant.errors import CheckpointError, GgufError, UnsupportedError
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from quant.recipe.recipe import plan_types, recipe_named
from tests.tiny import TinyCheckpoint, build


@pytest.fixture(scope="module")
def tiny() -> TinyCheckpoint:
    return build("k2", layers=2, experts=4)


@pytest.fixture(scope="module")
def folder(tiny: TinyCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("source") / "k2")


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    """The model as a file of each recipe."""
    paths = {}
    for recipe in ("F32", "BF16", "Q8_0", "Q4_K_M"):
        paths[recipe] = folder.parent / f"{recipe}.gguf"
        quantize(folder, paths[recipe], QuantizeOptions(recipe), threads=1)
    return paths


def write(source: QuantizeSource, path: Path, recipe_name: str, shard_bytes: int | None = None) -> Path:
    """Convert a source, and return the first file of the result."""
    recipe = recipe_named(recipe_name)
    types = plan_types([(tensor.name, tensor.shape) for tensor in source.tensors], recipe)
    specs = [TensorSpec(tensor.name, kind, tensor.shape) for tensor, kind in zip(source.tensors, types, strict=True)]
    layout = gguf_layout(path, source.metadata(None, recipe.file_type), specs, shard_bytes)
    planned = tuple(PlannedTensor(tensor, BlockCodec(kind)) for tensor, kind in zip(source.tensors, types, strict=True))
    return convert(ConvertJob(planned, layout, source.fingerprint()), threads=1).path


def test_a_file_of_floats_gives_what_its_checkpoint_gives(folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    with open_source(files["F32"]) as source:
        assert source.default_recipe == "Q4_K_M" and source.complete and source.notes == ()
        assert set(source.storages) == {"F32"} and source.n_layers == 2
        again = write(source, tmp_path / "again.gguf", "Q4_K_M")
    with GgufFile.open(files["Q4_K_M"]) as direct, GgufFile.open(again) as indirect:
        assert list(direct.tensors) == list(indirect.tensors)
        for name in direct.tensors:
            assert direct.tensor(name).type == indirect.tensor(name).type
            assert np.array_equal(direct.tensor(name).data, indirect.tensor(name).data), name
        assert dict(direct.metadata) == dict(indirect.metadata)
        for key in direct.metadata:
            assert direct.value_type(key) == indirect.value_type(key)


@pytest.mark.parametrize("recipe", ["F32", "BF16", "Q8_0"])
def test_the_same_recipe_copies_every_byte(files: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    with open_source(files[recipe]) as source:
        for tensor in source.tensors:
            assert list(tensor.exact) == [GgufFile.open(files[recipe]).tensors[tensor.name].type.name]
        again = write(source, tmp_path / "again.gguf", recipe)
    with GgufFile.open(files[recipe]) as first, GgufFile.open(again) as second:
        for name in first.tensors:
            assert np.array_equal(first.tensor(name).data, second.tensor(name).data)


def test_values_of_parts_are_those_of_the_file(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k2lite.quantize.gguf_source, "PART_WEIGHTS", 1 << 16)
    monkeypatch.setattr(k2lite.quantize.gguf_source, "rows_in_part", lambda rows, cols: min(rows, 128))
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(files["F32"]).tensors}
    with open_source(files["F32"]) as source:
        parts = {tensor.name: tensor.parts for tensor in source.tensors}
        assert parts["blk.1.ffn_up_exps.weight"] == 4
        assert parts["token_embd.weight"] == 5 and parts["output_norm.weight"] == 1
        for tensor in source.tensors:
            values = torch.cat([tensor.read_rows(part) for part in range(tensor.parts)])
            assert np.array_equal(values.view(tensor.shape).numpy(), reader[tensor.name].data)


def test_notes_say_that_some_weights_were_rounded_before(files: dict[str, Path]) -> None:
    with open_source(files["Q8_0"]) as source:
        (note,) = source.notes
        assert "are Q8_0 in the source" in note and set(source.storages) == {"Q8_0", "F32"}


def test_fewer_bits_are_taken_only_when_asked_for(files: dict[str, Path], tmp_path: Path) -> None:
    for opening in (open_source, plan_source):
        with pytest.raises(UnsupportedError, match=r"are Q4_K, Q5_0, Q6_K.* --allow-requantize"):
            opening(files["Q4_K_M"])
    with open_source(files["Q4_K_M"], allow_requantize=True) as source:
        again = write(source, tmp_path / "again.gguf", "Q8_0")
    with GgufFile.open(again) as file:
        assert file.tensor("blk.1.ffn_up_exps.weight").type.name == "Q8_0"


def test_a_name_can_be_given(files: dict[str, Path]) -> None:
    with open_source(files["F32"]) as source:
        kept, renamed = source.metadata(None, 15), source.metadata("other", 15)
    assert [entry.value for entry in kept if entry.key == "general.name"] == ["k2"]
    assert [entry.value for entry in renamed if entry.key == "general.name"] == ["other"]
    assert len({entry.key for entry in renamed}) == len(renamed) == len(kept)


def rewritten(
    path: Path, target: Path, extra: Sequence[MetadataEntry] = (), names: dict[str, str] | None = None
) -> Path:
    """The file with more keys (which replace others) and other tensor names."""
    added = {entry.key for entry in extra}
    with GgufFile.open(path) as file:
        kept = {key: value for key, value in file.metadata.items() if key not in added}
        keys = [MetadataEntry(key, file.value_type(key), value) for key, value in kept.items()]
        specs = [
            TensorSpec((names or {}).get(info.name, info.name), info.type, info.shape) for info in file.tensors.values()
        ]
        with GgufWriter(target, [*keys, *extra], specs) as writer:
            for spec, name in zip(specs, file.tensors, strict=True):
                writer.write(spec.name, file.tensor(name).data)
            writer.finish()
    return target


def test_keys_about_the_old_file_are_not_carried_over(files: dict[str, Path], tmp_path: Path) -> None:
    extra = [
        MetadataEntry("general.file_type", "uint32", 99),
        MetadataEntry("general.quantization_version", "uint32", 1),
        MetadataEntry("quantize.imatrix.file", "string", "old.dat"),
        MetadataEntry("general.license", "string", "mit"),
        MetadataEntry("general.tags", "array[string]", ["a", "b"]),
    ]
    with open_source(rewritten(files["F32"], tmp_path / "keys.gguf", extra)) as source:
        entries = {entry.key: entry for entry in source.metadata(None, 15)}
    assert entries["general.file_type"].value == 15 and entries["general.quantization_version"].value == 2
    assert "quantize.imatrix.file" not in entries
    assert entries["general.license"] == extra[3] and entries["general.tags"] == extra[4]


def test_tensors_of_other_layouts_keep_their_names(files: dict[str, Path], tmp_path: Path) -> None:
    fused, unsplit = "blk.1.ffn_gate_up_exps.weight", "blk.0.attn_kv_b.weight"
    names = {"blk.0.attn_k_b.weight": unsplit, "blk.1.ffn_up_exps.weight": fused}
    with open_source(rewritten(files["F32"], tmp_path / "names.gguf", names=names)) as source:
        assert set(names.values()) <= {tensor.name for tensor in source.tensors}


def test_another_architecture_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    other = [MetadataEntry("general.architecture", "string", "llama")]
    with pytest.raises(UnsupportedError, match=r"general\.architecture is 'llama'"):
        open_source(rewritten(files["F32"], tmp_path / "other.gguf", other))


def test_a_missing_file_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a model, but longer than a magic number")
    (tmp_path / "short").write_text("GG")
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone.gguf", "notes.txt", "short", "pipe"):
        for opening in (open_source, plan_source):
            with pytest.raises(CheckpointError, match=f"{name} is neither a checkpoint folder nor a GGUF file: give"):
                opening(tmp_path / name)


def test_a_damaged_file_is_refused(tmp_path: Path, files: dict[str, Path]) -> None:
    (tmp_path / "half.gguf").write_bytes(files["F32"].read_bytes()[:-1000])
    for opening in (open_source, plan_source):
        with pytest.raises(GgufError, match=r"half\.gguf is cut off"):
            opening(tmp_path / "half.gguf")


def test_shards_are_one_source_and_all_of_them_are_in_the_fingerprint(files: dict[str, Path], tmp_path: Path) -> None:
    with open_source(files["F32"]) as source:
        write(source, tmp_path / "split.gguf", "F32", shard_bytes=2_000_000)
        whole = [(tensor.name, tensor.shape) for tensor in source.tensors]
    shards = sorted(tmp_path.glob("split-*.gguf"))
    assert len(shards) > 2
    with open_source(shards[0]) as source:
        assert [(tensor.name, tensor.shape) for tensor in source.tensors] == whole
        assert list(source.fingerprint()) == [path.name for path in shards]
        assert not [entry for entry in source.metadata(None, 0) if entry.key.startswith("split.")]
        before = source.fingerprint()
        again = write(source, tmp_path / "joined.gguf", "F32")
    with GgufFile.open(files["F32"]) as first, GgufFile.open(again) as second:
        assert all(np.array_equal(first.tensor(name).data, second.tensor(name).data) for name in first.tensors)
    shards[1].touch()
    with open_source(shards[0]) as source:
        assert [key for key, value in source.fingerprint().items() if before[key] != value] == [shards[1].name]
    shards[2].unlink()
    with pytest.raises(GgufError, match=shards[2].name):
        open_source(shards[0])
