"""Reading GGUF files, single or in shards, without copying: tensors are views of the mapped file.

Files of other makers are welcome: any alignment, gaps between tensors, any order. What would make a byte of a
tensor wrong or missing is refused.
"""

import contextlib
import errno
import mmap
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from quant.closing import Closing
from quant.errors import GgufError
from quant.gguf.gguf_format import DEFAULT_ALIGNMENT, align_up
from quant.gguf.gguf_parser import Header, TensorEntry, parse_header
from quant.gguf.gguf_shards import check_shard, check_tensor_count, other_shards
from quant.row_shape import RowShaped
from quant.tensor import QuantizedTensor
from quant.types import BlockType

_PART_BYTES = 64 << 20
_MADV_POPULATE_READ = 22  # of Linux 5.14; Python 3.11 has no name for it


@dataclass(frozen=True, slots=True)
class TensorInfo(RowShaped):
    """Where a tensor lies: `nbytes` bytes from byte `offset_bytes` of the file `path`.

    `shape` is in numpy order, slowest dimension first.
    """

    name: str
    type: BlockType
    shape: tuple[int, ...]
    path: Path
    offset_bytes: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.type.row_bytes(self.cols)


class GgufFile(Closing):
    """An open model file. `metadata` holds plain Python values and NumberArrays, `tensors` keeps the order of the file.

    Nothing changes after opening, so every thread may read. Shortening the file while it is open makes the
    system kill the process: a mapped page without a file behind it cannot be read.
    """

    def __init__(self, header: Header, tensors: dict[str, TensorInfo], maps: dict[Path, mmap.mmap]) -> None:
        self.metadata: dict[str, Any] = header.metadata
        self.tensors = tensors
        self.paths = tuple(maps)
        self._value_types = header.value_types
        self._maps = maps

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a single file or the first shard; the other shards are found by name.

        Raises GgufError (missing, cut off, damaged, shards that do not belong together) or UnsupportedError.
        """
        maps = {path: _map(path)}
        first = parse_header(maps[path], path)
        headers = {path: first}
        for shard in other_shards(path, first):
            maps[shard] = _map(shard)
            headers[shard] = parse_header(maps[shard], shard)
            check_shard(shard, headers[shard], len(headers) - 1, first)
        tensors: dict[str, TensorInfo] = {}
        for shard, header in headers.items():
            size = len(maps[shard])
            for info in _place(shard, header, _alignment(shard, header, first, size), size):
                if info.name in tensors:
                    other = tensors[info.name].path.name
                    raise GgufError(f"{shard}: tensor {info.name!r} is in {other} as well")
                tensors[info.name] = info
        check_tensor_count(path, first, len(tensors))
        return cls(first, tensors, maps)

    def value_type(self, key: str) -> str:
        """The stored type of `key`, as in "uint32" or "array[string]". Raises KeyError for an unknown key."""
        return self._value_types[key]

    def tensor(self, name: str) -> QuantizedTensor:
        """A read-only view of a tensor's bytes, valid past `close`. Raises GgufError for an unknown name."""
        if name not in self.tensors:
            raise GgufError(f"{self.paths[0]} has no tensor {name!r} among its {len(self.tensors)}")
        info = self.tensors[name]
        if info.path not in self._maps:
            raise ValueError(f"{info.path} is closed")
        data = np.frombuffer(self._maps[info.path], np.uint8, info.nbytes, info.offset_bytes)
        return QuantizedTensor(info.type, info.shape, data)

    def page_in(self, names: Iterable[str]) -> Iterator[int]:
        """Bring tensors into memory, a part at a time; yields how many of their bytes are there.

        Without this the first use of every few pages interrupts whoever computes: an expert of Kimi K2 then takes
        longer to be found than to be multiplied. Raises GgufError when the file got shorter.
        """
        done = 0
        for name in names:
            info = self.tensors[name]
            pages, end = self._maps[info.path], info.offset_bytes + info.nbytes
            start = info.offset_bytes // mmap.PAGESIZE * mmap.PAGESIZE
            done -= info.offset_bytes - start
            while start < end:
                length = min(_PART_BYTES, end - start)
                with contextlib.suppress(OSError):
                    pages.madvise(mmap.MADV_WILLNEED, start, min(2 * _PART_BYTES, end - start))
                try:
                    pages.madvise(_MADV_POPULATE_READ, start, length)
                except OSError as error:
                    if error.errno == errno.EFAULT:
                        raise GgufError(f"{info.path} was cut off while it was loaded: fetch it again") from error
                    return  # an older system: pages come when they are used
                done, start = done + length, start + length
                yield done

    def close(self) -> None:
        """Hand out no further tensors. A mapping ends when its last view is gone. Safe to call twice."""
        self._maps.clear()


def _map(path: Path) -> mmap.mmap:
    """Map a file read-only. Raises GgufError when it cannot be opened or is empty."""
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # opening a pipe would wait for a writer
            raise GgufError(f"{path} is not a regular file: give the model file itself")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise GgufError(f"cannot open {path}: {error.strerror}: check the path and who may read it") from error
    except ValueError as error:  # mmap's answer to a file of 0 bytes
        raise GgufError(f"{path} is empty: it is not a GGUF file") from error


def _alignment(path: Path, header: Header, first: Header, size: int) -> int:
    """The alignment in bytes that `header`, of a file of `size` bytes, was written with."""
    own, inherited = header.own_alignment, first.own_alignment
    if own is not None or inherited is None:
        return own or DEFAULT_ALIGNMENT
    # gguf-py aligns all shards alike but says so in the first only; to llama.cpp a shard that says nothing
    # has the default. The length of the file tells which of the two wrote it.
    for alignment in (inherited, DEFAULT_ALIGNMENT):
        if _end(header, alignment) == size:
            return alignment
    raise GgufError(
        f"{path} is cut off or damaged: {size} bytes instead of {_end(header, inherited)} "
        f"(alignment {inherited}, as in the first shard) or {_end(header, DEFAULT_ALIGNMENT)} (the default)"
    )


def _end(header: Header, alignment: int) -> int:
    """The length in bytes of a whole file with this header, the padding behind its last tensor included."""
    if not header.entries:
        return header.end
    start = align_up(header.end, alignment)
    return start + max(entry.offset + align_up(entry.nbytes, alignment) for entry in header.entries)


def _place(path: Path, header: Header, alignment: int, size: int) -> list[TensorInfo]:
    """Turn offsets into places in a file of `size` bytes. Raises GgufError for missing or shared bytes."""
    end = _end(header, alignment)
    if end > size:
        raise GgufError(f"{path} is cut off: it has {size} of {end} bytes: copy or download it again")
    start = align_up(header.end, alignment)
    used_to, last_name = 0, ""
    for entry in sorted(header.entries, key=_offset):
        if entry.offset % alignment:
            raise _damaged(path, f"{entry.name!r} begins at {entry.offset}, no multiple of {alignment}")
        if entry.offset < used_to:
            raise _damaged(path, f"the tensors {last_name!r} and {entry.name!r} overlap")
        used_to, last_name = entry.offset + entry.nbytes, entry.name
    return [
        TensorInfo(entry.name, entry.type, entry.shape, path, start + entry.offset, entry.nbytes)
        for entry in header.entries
    ]


def _offset(entry: TensorEntry) -> int:
    return entry.offset


def _damaged(path: Path, problem: str) -> GgufError:
    return GgufError(f"{path} is damaged: {problem}: copy or download it again")
