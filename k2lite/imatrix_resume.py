"""How the collection of an importance matrix goes on where it was stopped: what its file says about its own making."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import CheckpointError, ImatrixError, OutputError
from quant.files.paths import is_file, is_folder
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_writer import MetadataEntry
from quant.imatrix.collect import CollectingKernels
from quant.imatrix.imatrix import checked
from quant.imatrix.imatrix_file import CHUNK_SIZE_KEY, GgufStatistics

_PREFIX = "k2lite.imatrix."
_UNFINISHED_KEY = _PREFIX + "unfinished"

_SAMPLE_BYTES = 64 << 10
_SAMPLES = 32


@dataclass(frozen=True)
class Origin:
    """What all chunks of a run have in common. Two runs with one origin collect the same statistics."""

    text_sha256: str
    model_digest: str
    chunk_tokens: int
    process_output: bool

    def metadata(self, unfinished: set[str]) -> list[MetadataEntry]:
        """Keys of the file; `unfinished` are the weights that have the chunk after the last complete one already."""
        return [
            MetadataEntry(_PREFIX + "text_sha256", "string", self.text_sha256),
            MetadataEntry(_PREFIX + "model_digest", "string", self.model_digest),
            MetadataEntry(_PREFIX + "process_output", "bool", self.process_output),
            MetadataEntry(_UNFINISHED_KEY, "array[string]", sorted(unfinished)),
        ]

    def check(self, path: Path, stored: Mapping[str, Any]) -> None:
        """Raise ImatrixError that names what differs when a file with these keys was made from something else."""
        advice = "choose another name with -o, or delete it to start again"
        if _PREFIX + "text_sha256" not in stored:
            raise ImatrixError(f"{path} exists and is not from a run that can go on: {advice}")
        output = "with output.weight (--process-output)" if not self.process_output else "without output.weight"
        differences = {
            _PREFIX + "text_sha256": (self.text_sha256, "from another text (--text)"),
            _PREFIX + "model_digest": (self.model_digest, "with another model"),
            CHUNK_SIZE_KEY: (self.chunk_tokens, f"in chunks of {stored.get(CHUNK_SIZE_KEY)} tokens (--chunk-size)"),
            _PREFIX + "process_output": (self.process_output, output),
        }
        found = [text for key, (wanted, text) in differences.items() if stored.get(key) != wanted]
        if found:
            raise ImatrixError(f"{path} was collected {' and '.join(found)}: {advice}")


@dataclass(frozen=True)
class Stopped:
    """What an earlier run has left: complete chunks, and the weights that have the next chunk already."""

    path: Path
    chunks: int
    unfinished: frozenset[str]

    @classmethod
    def find(cls, path: Path, origin: Origin) -> "Stopped | None":
        """Look for the file of an earlier run; None where there is none.

        Raises ImatrixError or GgufError for a file that this run cannot go on with.
        """
        if not os.path.lexists(path):
            return None
        if not is_file(path):
            raise OutputError(f"{path} exists and is not a file: choose another name with -o")
        with closing(GgufStatistics(path)) as file:
            origin.check(path, file.metadata)
            unfinished = file.metadata.get(_UNFINISHED_KEY)
            if not isinstance(unfinished, list) or not set(unfinished) <= set(file.names):
                raise ImatrixError(f"{path} is damaged: {_UNFINISHED_KEY} is not a list of its weights: delete it")
            return cls(path, file.header.chunk_count, frozenset(unfinished))

    def restore(self, kernels: CollectingKernels) -> None:
        """Give the numbers of the file to `kernels`. Raises ImatrixError when they are not of this model."""
        with closing(GgufStatistics(self.path)) as file:
            for name in file.names:
                kernels.restore(name, checked(self.path, name, file.read(name)))
        kernels.in_chunk |= self.unfinished


def model_digest(path: Path) -> str:
    """SHA-256 over sizes and samples of all files of a model, which takes milliseconds for a model of any size.

    The names do not take part, so a moved or renamed model is the same one. Raises K2Error.
    """
    digest = hashlib.sha256()
    for file in _folder_files(path) if is_folder(path) else _gguf_files(path):
        try:
            with file.open("rb", buffering=0) as opened:
                size = os.fstat(opened.fileno()).st_size
                digest.update(f"{size}\n".encode())
                for sample in range(_SAMPLES):
                    offset = max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1)
                    digest.update(os.pread(opened.fileno(), _SAMPLE_BYTES, offset))
        except OSError as error:
            raise ImatrixError(f"cannot read {file}: {error.strerror}: check the path and who may read it") from error
    return digest.hexdigest()


def _gguf_files(path: Path) -> list[Path]:
    with GgufFile.open(path) as file:
        return list(file.paths)


def _folder_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no safetensors files: it is not a checkpoint folder")
    return [folder / "config.json", *files]


@contextmanager
def only_run(destination: Path) -> Iterator[None]:
    """Hold the file's lock while its statistics are collected. Raises OutputError when another process has it."""
    path = destination.with_name(destination.name + ".lock")
    if not is_folder(path.parent):
        raise OutputError(f"the folder {path.parent} does not exist: create it first")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"cannot create {path}: {error.strerror}") from error
    locked = False
    try:
        _take_lock(file, path, destination)
        locked = True
        yield
    finally:
        if locked:
            path.unlink(missing_ok=True)  # the name goes before the lock does
        os.close(file)


def _take_lock(file: int, path: Path, destination: Path) -> None:
    busy = OutputError(f"another process is collecting {destination}: wait for it or choose another name with -o")
    # Some network file systems have no locks at all. There the user keeps two runs from one destination.
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
    try:
        if not os.path.samestat(os.fstat(file), path.stat()):
            raise busy
    except FileNotFoundError:  # its owner has just finished
        raise busy from None
