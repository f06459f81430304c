"""Appending past the page cache."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quant.files import direct_file
from quant.files.direct_file import DirectFile


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers of two pages, so that a few kilobytes cross many borders."""
    monkeypatch.setattr(direct_file, "_BUFFER_BYTES", 8192)


@pytest.fixture(params=["drive", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder where direct writes may work, and one on a file system that does not know them."""
    if request.param == "drive":
        yield tmp_path
        return
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("this machine has no /dev/shm")
    path = shm / f"k2lite-test-{os.getpid()}"
    path.mkdir()
    yield path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def write(path: Path, pieces: list[np.ndarray | bytes]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    file = DirectFile(descriptor)
    try:
        for piece in pieces:
            file.append(piece)
        file.finish()
    finally:
        file.close()
        os.close(descriptor)


@pytest.mark.parametrize("nbytes", [0, 1, 8191, 8192, 8193, 16384, 100_001])
def test_pieces_of_any_length_are_written_in_order(folder: Path, nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8)
    cuts = sorted(random.Random(nbytes).choices(range(nbytes + 1), k=20))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, nbytes], strict=True)]
    write(folder / "a", [*pieces, b""])
    assert (folder / "a").read_bytes() == data.tobytes()


def test_a_piece_may_change_after_it_was_appended(folder: Path) -> None:
    descriptor = os.open(folder / "a", os.O_RDWR | os.O_CREAT)
    file, piece = DirectFile(descriptor), np.full(20_000, 7, dtype=np.uint8)
    file.append(piece)
    piece[:] = 9
    file.finish()
    file.close()
    os.close(descriptor)
    assert set((folder / "a").read_bytes()) == {7}


def test_a_drive_that_refuses_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write(folder / "a", [bytes(50_000)])
