"""A GGUF file, single or in shards, as a source of the quantizer."""

import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from k2lite.config_gguf import config_from_gguf
from k2lite.gguf_metadata import QUANTIZATION_VERSION
from k2lite.quantize.source_base import QuantizeSource, storage_totals
from quant.checkpoint.part_size import PART_WEIGHTS, rows_in_part
from quant.convert.source_tensor import SourceTensor
from quant.errors import UnsupportedError
from quant.gguf.gguf_file import TensorInfo
from quant.gguf.gguf_source import GgufSource
from quant.gguf.gguf_writer import MetadataEntry

# From these, quantizing loses nothing worth mentioning.
ACCEPTED_TYPES = ("F32", "F16", "BF16", "Q8_0")
_FLOAT_TYPES = ("F32", "F16", "BF16")
# Keys that describe the file and not the model: the new file has its own.
_OWN_KEYS = ("general.file_type", "general.quantization_version", "general.alignment")
_OWN_PREFIXES = ("split.", "quantize.imatrix.")
_NAME_KEY = "general.name"


class FileSource(QuantizeSource):
    """A model file of the architecture that k2lite runs. Tensors keep their names and order."""

    def __init__(self, path: Path, *, allow_requantize: bool = False) -> None:
        """Open it and all its shards.

        Raises GgufError when it is damaged or incomplete, UnsupportedError for another architecture and, without
        `allow_requantize`, for weights of fewer bits than Q8_0 has.
        """
        with ExitStack() as stack:
            self._file = GgufSource.open(path)
            stack.callback(self._file.close)
            infos = list(self._file.tensors.values())
            config = config_from_gguf(self._file.values)
            if not allow_requantize:
                _check_types(infos, path)
            super().__init__(
                path,
                config,
                [self._source(info) for info in infos],
                storage_totals((info.type.name, math.prod(info.shape), info.nbytes) for info in infos),
                default_recipe="Q4_K_M",
                notes=_notes(infos),
                resources=stack.pop_all(),
            )

    def metadata(self, name: str | None, file_type: int) -> list[MetadataEntry]:
        """See QuantizeSource: the file's own keys, but for those that describe how it was written."""
        kept = [entry for entry in self._file.metadata if not _is_own(entry.key)]
        if name is not None:
            kept = [entry for entry in kept if entry.key != _NAME_KEY]
            kept.append(MetadataEntry(_NAME_KEY, "string", name))
        return [
            *kept,
            MetadataEntry("general.file_type", "uint32", file_type),
            MetadataEntry("general.quantization_version", "uint32", QUANTIZATION_VERSION),
        ]

    def fingerprint(self) -> dict[str, str]:
        """See QuantizeSource: length, time and header of every file."""
        return dict(self._file.identities)

    def _source(self, info: TensorInfo) -> SourceTensor:
        part_rows = _part_rows(info)
        read = partial(self._read, info, part_rows)
        exact = {info.type.name: partial(self._read_stored, info, part_rows)}
        return SourceTensor(info.name, info.shape, part_rows, read, exact)

    def _read(self, info: TensorInfo, part_rows: int, part: int) -> Tensor:
        return self._file.read_rows(info.name, part * part_rows, min((part + 1) * part_rows, info.rows))

    def _read_stored(self, info: TensorInfo, part_rows: int, part: int) -> np.ndarray:
        return self._file.read_stored(info.name, part * part_rows, min((part + 1) * part_rows, info.rows))


def _part_rows(info: TensorInfo) -> int:
    """Rows of a part: one slab of a stack that is too large to be read whole, else what is read at once."""
    if len(info.shape) > 2 and math.prod(info.shape) > PART_WEIGHTS:
        return info.rows // info.shape[0]
    return rows_in_part(info.rows, info.shape[-1])


def _check_types(infos: list[TensorInfo], path: Path) -> None:
    low = [info for info in infos if info.type.name not in ACCEPTED_TYPES]
    if low:
        types = ", ".join(dict.fromkeys(info.type.name for info in low))
        raise UnsupportedError(
            f"{path} is quantized already: {len(low)} of {len(infos)} tensors are {types}, {low[0].name} the first. "
            "Rounding them again costs quality: start from the checkpoint or a file of "
            f"{', '.join(ACCEPTED_TYPES)}, or ask for it with --allow-requantize"
        )


def _notes(infos: list[TensorInfo]) -> list[str]:
    rounded = [info for info in infos if info.type.name not in _FLOAT_TYPES]
    if not rounded:
        return []
    types = ", ".join(dict.fromkeys(info.type.name for info in rounded))
    return [f"{len(rounded)} tensors are {types} in the source: those that get another type are rounded a second time"]


def _is_own(key: str) -> bool:
    return key in _OWN_KEYS or key.startswith(_OWN_PREFIXES)
