"""Models that are spread over several GGUF files: their names, and the keys that say which file is which.

PREFIX-00001-of-00003.gguf carries all metadata; every shard carries the three split keys, of exactly these
types.
"""

import re
from pathlib import Path

from quant.errors import GgufError
from quant.gguf.gguf_parser import Header
from quant.gguf.gguf_writer import MetadataEntry

_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_TYPES = {_NUMBER: "uint16", _COUNT: "uint16", _TENSORS: "int32"}
MAX_SHARDS = 2**16 - 1  # the count is a uint16


def shard_path(first: Path, number: int, count: int) -> Path:
    """The file with the zero-based `number` beside `first`. Raises GgufError for a name that no shard has."""
    match = _NAME.fullmatch(first.name)
    if match is None or int(match["number"]) != 1 or int(match["count"]) != count:
        raise GgufError(
            f"{first} is the first of {count} shards, but is not called PREFIX-00001-of-{count:05d}.gguf: "
            "give all shards the names they were published with"
        )
    return first.with_name(f"{match['prefix']}-{number + 1:05d}-of-{count:05d}.gguf")


def named_shard(whole: Path, number: int, count: int) -> Path:
    """The zero-based shard `number` of the model that would be called `whole` as a single file."""
    return whole.with_name(f"{whole.name.removesuffix('.gguf')}-{number + 1:05d}-of-{count:05d}.gguf")


def split_entries(number: int, count: int, tensors: int) -> list[MetadataEntry]:
    """The keys of the zero-based shard `number`; `tensors` counts those of all shards."""
    values = {_NUMBER: number, _COUNT: count, _TENSORS: tensors}
    return [MetadataEntry(key, _TYPES[key], value) for key, value in values.items()]


def other_shards(first: Path, header: Header) -> list[Path]:
    """The files that belong to `first`, none for a single file. Raises GgufError when one is missing."""
    if _COUNT not in header.metadata:
        return []
    _check_types(first, header)
    count, number = header.metadata[_COUNT], header.metadata[_NUMBER]
    if number != 0:
        raise GgufError(f"{first} is shard {number + 1} of {count}: open the first shard instead")
    shards = [shard_path(first, other, count) for other in range(1, count)]
    for shard in shards:
        if not shard.is_file():
            raise GgufError(f"{shard} is missing: {first.name} is the first of {count} shards in one folder")
    return shards


def check_shard(shard: Path, header: Header, number: int, first: Header) -> None:
    """Raise GgufError unless `header` is that of the zero-based shard `number` after `first`."""
    _check_types(shard, header)
    expected = {_NUMBER: number, _COUNT: first.metadata[_COUNT], _TENSORS: first.metadata[_TENSORS]}
    for key, value in expected.items():
        if header.metadata[key] != value:
            raise GgufError(
                f"{shard}: {key} is {header.metadata[key]} instead of {value}: "
                "it belongs to another model or was renamed"
            )


def check_tensor_count(first: Path, header: Header, found: int) -> None:
    """Raise GgufError unless the shards together hold as many tensors as the first one says."""
    stated = header.metadata.get(_TENSORS, found)
    if stated != found:
        raise GgufError(f"{first}: the shards hold {found} tensors, but {_TENSORS} is {stated}")


def _check_types(shard: Path, header: Header) -> None:
    for key, expected in _TYPES.items():
        stored = header.value_types.get(key, "missing")
        if stored != expected:
            raise GgufError(f"{shard}: the key {key} is {stored} instead of {expected}: the shard is damaged")
