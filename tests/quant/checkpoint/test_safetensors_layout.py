"""Files laid out beforehand are files that the safetensors library reads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from quant.checkpoint.safetensors_layout import ShardEntry, StoredPart, shard_files, split_into_shards
from quant.convert.output_layout import OutputFile

TYPES = {"U8": torch.uint8, "F32": torch.float32, "BF16": torch.bfloat16}


def entry(name: str, *parts: tuple[str, str, tuple[int, ...]]) -> ShardEntry:
    stored = []
    for suffix, dtype, shape in parts:
        stored.append(StoredPart(suffix, dtype, shape, torch.Size(shape).numel() * TYPES[dtype].itemsize))
    return ShardEntry(name, tuple(stored))


ENTRIES = [
    entry("odd.weight", ("", "BF16", (3,))),
    entry("model.a.weight", (".map", "F32", (4,)), ("", "U8", (6, 1)), (".state", "U8", (10,))),
    entry("norm.weight", ("", "F32", (5,))),
    entry("model.b.weight", ("", "BF16", (2, 8))),
]


def write(files: list[OutputFile], entries: list[list[ShardEntry]]) -> dict[str, Tensor]:
    """Write the files with one number per byte and return what the parts should hold."""
    expected: dict[str, Tensor] = {}
    for file, shard in zip(files, entries, strict=False):
        body = bytes(index % 100 for index in range(sum(tensor.nbytes for tensor in file.tensors)))
        file.path.write_bytes(file.header + body)
        position = 0
        for each in shard:
            for part in each.parts:
                raw = torch.frombuffer(bytearray(body[position : position + part.nbytes]), dtype=torch.uint8)
                expected[each.name + part.suffix] = raw.view(TYPES[part.dtype]).view(part.shape)
                position += part.nbytes
        assert [tensor.nbytes for tensor in file.tensors] == [each.nbytes for each in shard]
    return expected


@pytest.mark.parametrize("shard_bytes", [1, 40, 10_000])
def test_the_library_reads_every_tensor(tmp_path: Path, shard_bytes: int) -> None:
    shards = split_into_shards(ENTRIES, shard_bytes)
    files = shard_files(tmp_path, shards)
    expected = write(files, shards)
    found: dict[str, Tensor] = {}
    for file in files[: len(shards)]:
        with safe_open(file.path, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_files_are_filled_up_to_their_size(tmp_path: Path) -> None:
    sizes = [[each.nbytes for each in shard] for shard in split_into_shards(ENTRIES, 40)]
    assert [sum(shard) for shard in sizes] == [38, 20, 32]
    assert [len(shard) for shard in split_into_shards(ENTRIES, 1)] == [1, 1, 1, 1]


def test_one_file_has_the_plain_name_and_several_have_an_index(tmp_path: Path) -> None:
    (single,) = shard_files(tmp_path, split_into_shards(ENTRIES, 1000))
    assert single.path == tmp_path / "model.safetensors"
    *files, index = shard_files(tmp_path, split_into_shards(ENTRIES, 40))
    assert [file.path.name for file in files] == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert index.path.name == "model.safetensors.index.json"
    content = json.loads(index.header)
    assert content["metadata"] == {"total_size": 90}
    assert content["weight_map"]["model.a.weight.map"] == files[0].path.name
    assert len(content["weight_map"]) == 6


def test_tensors_that_break_the_alignment_come_last(tmp_path: Path) -> None:
    (shard,) = split_into_shards(ENTRIES, 1000)
    assert [each.name for each in shard] == ["model.a.weight", "model.b.weight", "norm.weight", "odd.weight"]
    with pytest.raises(ValueError, match="would lie at byte 6"):
        shard_files(tmp_path, [ENTRIES])
