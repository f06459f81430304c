"""The sources of the quantizer: a checkpoint folder, or a GGUF file."""

from pathlib import Path

from k2lite.quantize.folder_source import FolderSource, PlannedFolder
from k2lite.quantize.gguf_source import FileSource
from k2lite.quantize.source_base import QuantizeSource, StorageTotal
from quant.errors import CheckpointError
from quant.files.paths import is_file, is_folder
from quant.gguf.gguf_source import looks_like_gguf

__all__ = ["QuantizeSource", "StorageTotal", "open_source", "plan_source"]


def open_source(path: Path, *, allow_requantize: bool = False) -> QuantizeSource:
    """Open a checkpoint folder, or a GGUF file (of several shards the first). Use it in a `with` statement.

    `allow_requantize` accepts GGUF files of fewer bits than Q8_0 has. Raises K2Error.
    """
    if is_folder(path):
        return FolderSource(path)
    if not is_file(path) or not looks_like_gguf(path):
        raise CheckpointError(
            f"{path} is neither a checkpoint folder nor a GGUF file: give the folder of config.json, or the file"
        )
    return FileSource(path, allow_requantize=allow_requantize)


def plan_source(path: Path, *, allow_requantize: bool = False) -> QuantizeSource:
    """What `open_source` gives; for a folder whose weights are missing or incomplete, what config.json says.

    The second has `complete` False, and reading from it raises CheckpointError. Raises K2Error when there is no
    usable config.json either.
    """
    try:
        return open_source(path, allow_requantize=allow_requantize)
    except CheckpointError as error:
        if not is_folder(path):
            raise
        return PlannedFolder(path, str(error))
