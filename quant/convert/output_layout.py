"""Where every byte of an output lies, before the first one is written: one file, or several with one name."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class OutputTensor:
    """A tensor in a file: `nbytes` of data, then `padding` zero bytes."""

    name: str
    nbytes: int
    padding: int = 0


@dataclass(frozen=True)
class OutputFile:
    """A file from its first byte to its last: a header, then tensors without gaps.

    `path` is the final one. A file without tensors is its header alone, as a config.json beside the weights.
    """

    path: Path
    header: bytes
    tensors: tuple[OutputTensor, ...] = ()

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Offset of each tensor's first byte."""
        starts, position = [], len(self.header)
        for tensor in self.tensors:
            starts.append(position)
            position += tensor.nbytes + tensor.padding
        return tuple(starts)

    @cached_property
    def nbytes(self) -> int:
        """Length of the whole file."""
        return len(self.header) + sum(tensor.nbytes + tensor.padding for tensor in self.tensors)


@dataclass(frozen=True)
class OutputLayout:
    """All files of an output. `destination` is what the user named: journal and report lie beside it.

    Until everything is verified the bytes are in `part_path(file)`: each file under its own name with ".part", or,
    with `is_folder`, all files in one folder DESTINATION.part. `is_folder` needs files right inside `destination`.
    """

    destination: Path
    files: tuple[OutputFile, ...]
    is_folder: bool = False

    def __post_init__(self) -> None:
        paths = [file.path for file in self.files]
        if not paths or len(set(paths)) != len(paths):
            raise ValueError(f"{self.destination} is laid out as {len(paths)} files of {len(set(paths))} names")
        if any(file.nbytes == 0 for file in self.files):
            raise ValueError(f"{self.destination} is laid out with an empty file")
        if self.is_folder and any(path.parent != self.destination for path in paths):
            raise ValueError(f"not all files lie in {self.destination}")

    @property
    def journal_path(self) -> Path:
        """Where the journal lies while the output is incomplete."""
        return self.destination.with_name(self.destination.name + ".journal")

    @property
    def part_folder(self) -> Path:
        """The folder that becomes `destination`, for `is_folder`."""
        return self.destination.with_name(self.destination.name + ".part")

    def part_path(self, file: OutputFile) -> Path:
        """Where a file's bytes are until it is complete."""
        if self.is_folder:
            return self.part_folder / file.path.name
        return file.path.with_name(file.path.name + ".part")

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    @cached_property
    def digest(self) -> str:
        """Equal for layouts with the same bytes in the same places, wherever the output lies."""
        content = hashlib.sha256()
        for file in self.files:
            tensors = [(tensor.name, tensor.nbytes, tensor.padding) for tensor in file.tensors]
            header = hashlib.sha256(file.header).hexdigest()
            content.update(json.dumps([file.path.name, header, tensors]).encode() + b"\n")
        return content.hexdigest()
