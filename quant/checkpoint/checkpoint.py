"""A Hugging Face checkpoint folder as float32 tensors, read one at a time.

Quantized weights are stored as several tensors; they are listed under the one name `MODULE.weight` that the model
knows, and decoded when they are read.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quant.checkpoint.entries import Storage, TensorEntry, list_entries
from quant.checkpoint.repack import count_inexact_scales, read_q4_0_rows
from quant.checkpoint.rows import read_float_rows, read_stored_rows
from quant.checkpoint.shards import open_shards
from quant.checkpoint.weight_scheme import weight_scheme
from quant.closing import Closing
from quant.errors import CheckpointError
from quant.files.bounded_json import read_json_object
from quant.files.paths import is_folder

_MAX_CONFIG_BYTES = 16 * 1024 * 1024


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of the checkpoint in `folder`. Raises CheckpointError when there is none."""
    if not is_folder(folder):
        raise CheckpointError(f"{folder} is not a folder: give the folder that holds config.json")
    return read_json_object(folder / "config.json", _MAX_CONFIG_BYTES)


class Checkpoint(Closing):
    """An open checkpoint. Reading is safe from several threads; each read takes memory for its tensor only.

    `config` is config.json as it is. `names` are in file order. `skipped` counts the tensors of the vision part,
    which are not listed.
    """

    def __init__(self, folder: Path) -> None:
        """Open `folder`. Raises CheckpointError when it is incomplete or damaged, UnsupportedError when its
        config.json declares a quantization that is not read here."""
        self.folder = folder
        self.config = read_config(folder)
        scheme = weight_scheme(self.config)
        with ExitStack() as stack:
            self._entries, self.skipped = list_entries(open_shards(folder, stack), scheme)
            self._files = stack.pop_all()

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """The checkpoint in `folder`; use it in a `with` statement."""
        return cls(folder)

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._files.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors as the model knows them, in file order."""
        return tuple(self._entries)

    @property
    def identities(self) -> dict[str, str]:
        """File name -> what changes when the file does, for every file that holds one of the tensors."""
        parts = (part for entry in self._entries.values() for part in (entry.values, entry.scales) if part is not None)
        files = {part.file.path.name: part.file.identity for part in parts}
        return dict(sorted(files.items()))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the decoded tensor."""
        return self.entry(name).shape

    def storage(self, name: str) -> Storage:
        """How the tensor is stored."""
        return self.entry(name).storage

    def entry(self, name: str) -> TensorEntry:
        """What is stored under `name`. Raises CheckpointError when there is nothing."""
        if name not in self._entries:
            raise CheckpointError(
                f"tensor {name} is not among the {len(self._entries)} of {self.folder}: the download may be "
                "incomplete, or config.json belongs to another model"
            )
        return self._entries[name]

    def read(self, name: str) -> Tensor:
        """The tensor `name` as contiguous float32.

        Raises CheckpointError when it is missing, cut off, or holds NaN or infinity.
        """
        entry = self.entry(name)
        return read_float_rows(entry, 0, entry.rows).view(entry.shape)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` (all dimensions but the last are rows) as contiguous float32 [rows, cols].

        Reads nothing else. Rows of FP8 tensors start at a multiple of 128. Takes 4 bytes a weight and up to 20 MB.
        Raises CheckpointError as `read` does.
        """
        return read_float_rows(self.entry(name), start, stop)

    def read_stored(self, name: str, start: int, stop: int) -> np.ndarray:
        """The same rows of an F32, F16 or BF16 tensor as their stored bytes, one-dimensional. Raises as `read`."""
        return read_stored_rows(self.entry(name), start, stop)

    def read_q4_0(self, name: str, start: int, stop: int) -> tuple[np.ndarray, int]:
        """The same rows of an INT4 tensor as Q4_0 blocks, and how many scales had to be rounded to float16.

        See `quant.checkpoint.repack.read_q4_0_rows`.
        """
        return read_q4_0_rows(self.entry(name), start, stop)

    def inexact_scales(self, name: str, start: int, stop: int) -> int:
        """The number of scales that `read_q4_0` rounds, without reading the weights."""
        return count_inexact_scales(self.entry(name), start, stop)
