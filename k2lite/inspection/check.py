"""Whether the files of an output are still those that were verified: their SHA-256 against the report's."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from k2lite.inspection.inspection import Inspection
from quant.errors import K2Error, RequestError

_BLOCK_BYTES = 8 << 20


class DigestError(K2Error):
    """A file is not what the report says."""


def check_digests(inspection: Inspection, progress: Callable[[int, int], None], stop: threading.Event) -> bool:
    """Read every file that the report lists and compare. `progress(bytes read, bytes in all)`; False when stopped.

    Raises RequestError where there is nothing to compare with, DigestError for a file that differs.
    """
    report = inspection.report
    if report is None:
        raise RequestError(inspection.report_problem or f"there is no report beside {inspection.path}")
    if any(file.sha256 is None for file in report.files):
        raise RequestError(f"{inspection.path} was not verified when it was made: its report has no digests")
    # The user may have given the files of a GGUF model another name; those of a folder are known by theirs.
    paths = inspection.files or tuple(inspection.path / Path(file.name).name for file in report.files)
    total, done = sum(file.nbytes for file in report.files), 0
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    for path, expected in zip(paths, report.files, strict=True):
        digest = hashlib.sha256()
        try:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    if stop.is_set():
                        return False
                    digest.update(buffer[:count])
                    done += count
                    progress(done, total)
        except OSError as error:
            raise DigestError(f"cannot read {path}: {error.strerror}") from error
        if digest.hexdigest() != expected.sha256:
            raise DigestError(
                f"{path} has changed since it was verified: its SHA-256 is {digest.hexdigest()} instead of "
                f"{expected.sha256}. Copy it again, or make it again"
            )
    return True
