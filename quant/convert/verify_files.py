"""Reading an output back from the drive: every stretch has to have the digest that the journal recorded."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from quant.convert.job_types import ConversionStopped, Stretch
from quant.convert.output_layout import OutputFile, OutputLayout
from quant.convert.resume import new_digest
from quant.convert.verify_result import FileDigest, VerificationError

# Two of these are in memory. At the speed of a slow drive one takes a tenth of a second, after which a stop is noticed.
_BLOCK_BYTES = 8 << 20

ADVICE = "the drive or the memory may be failing. Run the same command again: it writes again from there"


class ReadBack:
    """Reads all files of a layout, in order. `read_bytes` grows while it does.

    Plain reads, no mapping: resident memory stays at two blocks. The system is asked to forget what it holds of the
    files first, so that the drive is read and not memory; it may decline.
    """

    def __init__(
        self,
        layout: OutputLayout,
        stretches: Sequence[Stretch],
        progress: Callable[[int, str], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self._layout = layout
        self._stretches = stretches
        self._progress = progress
        self._stop = stop
        self.read_bytes = 0

    def run(self) -> tuple[FileDigest, ...]:
        """Compare all stretches and digest all files. Raises VerificationError and ConversionStopped."""
        with ThreadPoolExecutor(2) as pool:
            return tuple(self._file(number, file, pool) for number, file in enumerate(self._layout.files))

    def _file(self, number: int, file: OutputFile, pool: ThreadPoolExecutor) -> FileDigest:
        whole = hashlib.sha256()
        path, position = self._layout.part_path(file), 0
        with opened(path) as descriptor:
            for stretch in self._stretches:
                if stretch.file != number:
                    continue
                if stretch.start != position:
                    raise ValueError(f"no digest is known for bytes {position} to {stretch.start} of {path}")
                self._stretch(stretch, file, path, descriptor, whole, pool)
                position = stretch.end
            if position != file.nbytes:
                raise ValueError(f"no digest is known for bytes {position} to {file.nbytes} of {path}")
            found = os.fstat(descriptor).st_size
        if found != file.nbytes:
            raise VerificationError(f"{path} has {found:,} bytes instead of {file.nbytes:,}: {ADVICE}", stretch)
        return FileDigest(file.path.name, file.nbytes, whole.hexdigest())

    def _stretch(
        self,
        stretch: Stretch,
        file: OutputFile,
        path: Path,
        descriptor: int,
        whole: "hashlib._Hash",
        pool: ThreadPoolExecutor,
    ) -> None:
        """Digest one stretch, reading a block while the one before it is digested, once by itself and once in all."""
        digest, pending = new_digest(), list[Future[None]]()
        buffers = [bytearray(min(_BLOCK_BYTES, stretch.nbytes)) for _ in range(2)]
        for index, start in enumerate(range(stretch.start, stretch.end, _BLOCK_BYTES)):
            self._check_stop()
            block = memoryview(buffers[index % 2])[: min(_BLOCK_BYTES, stretch.end - start)]
            _read(descriptor, block, start, path, stretch)
            for future in pending:
                future.result()
            pending = [pool.submit(digest.update, block), pool.submit(whole.update, block)]
            self.read_bytes += len(block)
            if self._progress is not None:
                self._progress(self.read_bytes, tensor_at(file, start))
        for future in pending:
            future.result()
        if digest.hexdigest() != stretch.digest:
            raise VerificationError(
                f"{tensor_at(file, stretch.start)} is not on the drive as it was written: bytes {stretch.start:,} to "
                f"{stretch.end:,} of {path} have the digest {digest.hexdigest()} instead of {stretch.digest}: {ADVICE}",
                stretch,
            )

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise ConversionStopped(f"stopped while {self._layout.destination} was verified: everything is written")


def tensor_at(file: OutputFile, offset: int) -> str:
    """The tensor to which a byte of a file belongs, or "the header"."""
    if offset < len(file.header) or not file.tensors:
        return "the header"
    last = sum(start <= offset for start in file.starts) - 1
    return file.tensors[last].name


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a part file, whose bytes the system was asked to forget. Raises VerificationError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise VerificationError(f"cannot read {path} back: {error.strerror}: {ADVICE}", None) from error
    try:
        with contextlib.suppress(OSError, AttributeError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, block: memoryview, start: int, path: Path, stretch: Stretch) -> None:
    """Fill `block` from byte `start` on, and let the system forget these bytes again."""
    done = 0
    try:
        while done < len(block):
            count = os.preadv(descriptor, [block[done:]], start + done)
            if count == 0:
                raise VerificationError(f"{path} ends at byte {start + done:,}, it is cut off: {ADVICE}", stretch)
            done += count
    except OSError as error:
        raise VerificationError(
            f"cannot read {path} back at byte {start + done:,}: {error.strerror}: {ADVICE}", stretch
        ) from error
    with contextlib.suppress(OSError, AttributeError):
        os.posix_fadvise(descriptor, start, len(block), os.POSIX_FADV_DONTNEED)
