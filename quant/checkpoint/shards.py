"""Which files a checkpoint consists of, and where each stored tensor lies."""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from quant.checkpoint.safetensors_file import SafetensorsFile, StoredTensor
from quant.errors import CheckpointError
from quant.files.bounded_json import read_json_object

INDEX_NAME = "model.safetensors.index.json"
# Kimi K2's index has about 210,000 entries of some 110 bytes.
_MAX_INDEX_BYTES = 256 * 1024 * 1024
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class ShardTensor:
    """A tensor and the file that holds it."""

    stored: StoredTensor
    file: SafetensorsFile

    def read(self) -> Tensor:
        """The values in their own dtype. Raises CheckpointError when the file cannot be read."""
        return self.file.read(self.stored)

    def read_rows(self, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        """Rows in their own dtype, see SafetensorsFile.read_rows."""
        return self.file.read_rows(self.stored, start, stop, buffer)


def open_shards(folder: Path, stack: ExitStack) -> dict[str, ShardTensor]:
    """Every tensor of `folder` by the name on disk, file by file in the order of offsets.

    The files are those that the index names, or without an index all of the folder; `stack` closes them. Raises
    CheckpointError when one is missing or damaged, or the files contradict the index or each other.
    """
    index = _read_index(folder)
    names = sorted(set(index.values())) if index else _files_of(folder)
    tensors: dict[str, ShardTensor] = {}
    for name in names:
        file = SafetensorsFile(folder / name)
        stack.callback(file.close)
        for stored in file.tensors.values():
            if stored.name in tensors:
                other = tensors[stored.name].file.path.name
                raise CheckpointError(f"tensor {stored.name} is in {other} and again in {name}: remove one file")
            tensors[stored.name] = ShardTensor(stored, file)
    for tensor_name, file_name in index.items():
        if tensor_name not in tensors or tensors[tensor_name].file.path.name != file_name:
            raise CheckpointError(
                f"{INDEX_NAME} says that {file_name} holds {tensor_name}, but it does not: download both again"
            )
    return tensors


def _read_index(folder: Path) -> dict[str, str]:
    """Tensor name -> file name as the index has it; empty when there is no index."""
    path = folder / INDEX_NAME
    if not path.exists():
        return {}
    weight_map = read_json_object(path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map: download it again")
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not _is_plain_file_name(file_name):
            raise CheckpointError(f"{path} puts {name} into {file_name!r}, which is not a file of this folder")
    return weight_map


def _is_plain_file_name(name: str) -> bool:
    return name.endswith(".safetensors") and not set(name) & {"/", "\\", ":", "\0"}


def _files_of(folder: Path) -> list[str]:
    """All safetensors files of the folder. A gap in their numbers means that the download is not complete."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise CheckpointError(f"{folder} holds no .safetensors file: is it the folder of a checkpoint?")
    numbered = [match for name in names if (match := _NUMBERED.search(name))]
    if numbered and {int(match[2]) for match in numbered} != {len(numbered)}:
        raise CheckpointError(
            f"{folder} holds {len(numbered)} numbered files, but {numbered[0].string} belongs to a set of "
            f"{int(numbered[0][2])}: download the missing ones, and remove what belongs to another set"
        )
    return names
