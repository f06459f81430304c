"""A folder of safetensors with matrices in NF4, written by bitsandbytes or by k2lite: listed, checked, read."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quant.checkpoint.checkpoint import read_config
from quant.checkpoint.shards import ShardTensor, open_shards
from quant.closing import Closing
from quant.errors import CheckpointError, UnsupportedError
from quant.files.bounded_json import parse_json_object
from quant.nf4.nested import NestedFactors
from quant.nf4.tensors import STATE_SUFFIX
from quant.nf4.values import decode_nf4, nf4_table

_METHOD = "bitsandbytes"
_PLAIN = ("F32", "F16", "BF16")
_COMPANIONS = (STATE_SUFFIX, ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_MAX_STATE_BYTES = 4096
# The sizes that bitsandbytes knows.
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
# Room for tables that went through another number format.
_TABLE_ERROR = 1e-4


def is_nf4_folder(folder: Path) -> bool:
    """Whether config.json says that bitsandbytes quantized the weights. Raises CheckpointError if it is damaged."""
    return _declared(read_config(folder)).get("quant_method") == _METHOD


@dataclass(frozen=True)
class Nf4Entry:
    """A matrix in NF4: `shape` is what it decodes to, `parts` are its stored tensors by suffix."""

    name: str
    shape: tuple[int, ...]
    block: int
    parts: Mapping[str, ShardTensor]
    nested_offset: float | None
    nested_block: int
    storage: str = "NF4"

    @property
    def nbytes(self) -> int:
        """Bytes on the drive, everything together."""
        return sum(part.stored.nbytes for part in self.parts.values())

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes uint8 [ceil(n / 2)] and factors float32 [ceil(n / block)].

        Raises CheckpointError when they cannot be read or factors are NaN or infinite, UnsupportedError when they
        index another table.
        """
        self.check_table()
        codes = self.parts[""].read().view(torch.uint8).reshape(-1).numpy()
        factors = self._factors()
        if not np.isfinite(factors).all():
            raise CheckpointError(f"{self.name} has factors that are NaN or infinite: download the file again")
        return codes, factors

    def check_table(self) -> None:
        """Raises UnsupportedError when the codes index another table than NF4's."""
        table = self.parts[".quant_map"].read().float()
        if not bool((table - nf4_table()).abs().max() < _TABLE_ERROR):
            raise UnsupportedError(f"{self.name}.quant_map is not the table of NF4: k2lite reads no other")

    def decode(self) -> Tensor:
        """All values as float32. Raises CheckpointError as `read` does."""
        codes, factors = self.read()
        return decode_nf4(codes, factors, math.prod(self.shape), self.block).view(self.shape)

    def _factors(self) -> np.ndarray:
        stored = self.parts[".absmax"].read()
        if self.nested_offset is None:
            return stored.float().reshape(-1).numpy()
        nested = self.parts[".nested_absmax"].read().float().reshape(-1).numpy()
        table = self.parts[".nested_quant_map"].read().float().reshape(-1).numpy()
        codes = stored.reshape(-1).numpy()
        return NestedFactors(codes, nested, table, self.nested_offset, self.nested_block).decode()


@dataclass(frozen=True)
class PlainEntry:
    """A tensor that is not quantized. `storage` is F32, F16 or BF16."""

    name: str
    shape: tuple[int, ...]
    storage: str
    values: ShardTensor

    @property
    def nbytes(self) -> int:
        """Bytes on the drive."""
        return self.values.stored.nbytes

    def read(self) -> np.ndarray:
        """The bytes as they are stored, one-dimensional uint8. Raises CheckpointError."""
        return self.values.read().reshape(-1).view(torch.uint8).numpy()

    def decode(self) -> Tensor:
        """All values as float32. Raises CheckpointError."""
        return self.values.read().float()


Entry = Nf4Entry | PlainEntry


class Nf4Folder(Closing):
    """An open folder. `entries` are the model's tensors by name; reading one takes memory for that one only."""

    def __init__(self, folder: Path) -> None:
        """Open it and check every tensor's description, without reading weights.

        Raises CheckpointError when it is damaged or incomplete, UnsupportedError for another kind of quantization.
        """
        self.folder = folder
        self.config: dict[str, Any] = read_config(folder)
        _check_kind(_declared(self.config))
        with ExitStack() as stack:
            tensors = open_shards(folder, stack)
            names = [name for name in tensors if not name.endswith(_COMPANIONS)]
            self.entries: dict[str, Entry] = {name: _entry(name, tensors) for name in names}
            self._files = stack.pop_all()

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._files.close()


def _declared(config: Mapping[str, Any]) -> Mapping[str, Any]:
    declared = config.get("quantization_config")
    return declared if isinstance(declared, Mapping) else {}


def _check_kind(declared: Mapping[str, Any]) -> None:
    for field, wanted in (("quant_method", _METHOD), ("load_in_4bit", True), ("bnb_4bit_quant_type", "nf4")):
        if declared.get(field) != wanted:
            raise UnsupportedError(
                f"config.json: quantization_config.{field} is {declared.get(field)!r}, but of {_METHOD}' formats "
                f"k2lite reads only {wanted!r}"
            )


def _entry(name: str, tensors: Mapping[str, ShardTensor]) -> Entry:
    if name + STATE_SUFFIX not in tensors:
        stored = tensors[name].stored
        if stored.dtype not in _PLAIN:
            raise UnsupportedError(
                f"{name} has dtype {stored.dtype} and no NF4 state; weights are NF4 or one of {', '.join(_PLAIN)}"
            )
        return PlainEntry(name, stored.shape, stored.dtype, tensors[name])
    parts = {suffix: tensors[name + suffix] for suffix in ("", *_COMPANIONS) if name + suffix in tensors}
    state = _State(name, parts[STATE_SUFFIX])
    shape, block = state.shape, state.choice("blocksize", _BLOCKS)
    nested = ".nested_absmax" in parts
    nested_block = state.choice("nested_blocksize", _BLOCKS) if nested else 0
    entry = Nf4Entry(name, shape, block, parts, state.number("nested_offset") if nested else None, nested_block)
    _check_parts(entry)
    return entry


def _check_parts(entry: Nf4Entry) -> None:
    """Every part is there and as long as the shape asks for."""
    count = math.prod(entry.shape)
    blocks = -(-count // entry.block)
    wanted = {"": -(-count // 2), ".absmax": blocks * (1 if entry.nested_block else 4), ".quant_map": 64}
    if entry.nested_block:
        wanted |= {".nested_absmax": 4 * -(-blocks // entry.nested_block), ".nested_quant_map": 1024}
    for suffix, nbytes in wanted.items():
        _check_part(entry, suffix, nbytes)


def _check_part(entry: Nf4Entry, suffix: str, nbytes: int) -> None:
    if suffix not in entry.parts:
        raise CheckpointError(f"{entry.name} is NF4, but {entry.name}{suffix} is missing: download the folder again")
    stored = entry.parts[suffix].stored
    dtype = "U8" if suffix == ".absmax" and entry.nested_block else "F32"
    # Codes may be declared as any type: bitsandbytes can store them as if they were, for training frameworks.
    if stored.nbytes != nbytes or (suffix and stored.dtype != dtype):
        raise CheckpointError(
            f"{stored.name} takes {stored.nbytes} bytes as {stored.dtype}, but {list(entry.shape)} in blocks of "
            f"{entry.block} needs {nbytes}: the parts do not belong together"
        )


class _State:
    """The fields that bitsandbytes keeps as JSON beside a matrix."""

    def __init__(self, name: str, stored: ShardTensor) -> None:
        self._name = stored.stored.name
        if stored.stored.dtype != "U8" or stored.stored.nbytes > _MAX_STATE_BYTES:
            raise CheckpointError(
                f"{self._name} takes {stored.stored.nbytes} bytes as {stored.stored.dtype} where a few words of JSON "
                "are expected: download the file again"
            )
        self._fields = parse_json_object(bytes(stored.read().numpy()), self._name)
        if self._fields.get("quant_type") != "nf4":
            raise UnsupportedError(f"{self._name}: quant_type is {self._fields.get('quant_type')!r}, not 'nf4'")

    @property
    def shape(self) -> tuple[int, ...]:
        """What the matrix decodes to."""
        value = self._fields.get("shape")
        if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and 0 < n < 2**31 for n in value):
            raise CheckpointError(f"{self._name}: shape is {value!r}, not two sizes")
        return tuple(value)

    def choice(self, field: str, known: tuple[int, ...]) -> int:
        """A field with one of a few values."""
        value = self._fields.get(field)
        if type(value) is not int or value not in known:
            raise CheckpointError(f"{self._name}: {field} is {value!r}, but must be one of {known}")
        return value

    def number(self, field: str) -> float:
        """A finite number."""
        value = self._fields.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:
            raise CheckpointError(f"{self._name}: {field} is {value!r}, but must be a finite number")
        return float(value)
