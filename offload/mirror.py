"""A second copy of a model on another drive, so that both drives read at once, piece by piece."""

import hashlib
import random
from pathlib import Path

from offload.drive import BLOCK_BYTES, Drive, block_floor
from offload.resident import page_memory
from quant.errors import StoreError

_SAMPLES = 32


def mirror_drive(original: Drive, mirror: Path) -> Drive:
    """The files of `original` as they lie beside or in `mirror`, under the same names.

    Raises StoreError when they cannot be opened or are no copies: sizes, the first and last blocks and a sample of
    those between are compared.
    """
    folder = mirror if mirror.is_dir() else mirror.parent
    paths = [folder / path.name for path in original.paths]
    if len(paths) == 1 and not paths[0].exists():
        paths = [mirror]  # a single file may have another name
    drive = Drive(paths)
    try:
        for number, path in enumerate(paths):
            _compare(original, drive, number, path)
    except BaseException:
        drive.close()
        raise
    return drive


def _compare(original: Drive, copy: Drive, number: int, path: Path) -> None:
    size = original.size(number)
    if copy.size(number) != size:
        raise StoreError(
            f"{path} is no copy of {original.paths[number]}: it has {copy.size(number)} bytes instead of {size}: "
            "copy it again or leave out --mirror"
        )
    draw = random.Random(size)
    places = [0, block_floor(max(0, size - 1)), *(block_floor(draw.randrange(size)) for _ in range(_SAMPLES))]
    for place in places:
        if _digest(original, number, place) != _digest(copy, number, place):
            raise StoreError(
                f"{path} is no copy of {original.paths[number]}: they differ near byte {place}: "
                "copy it again or leave out --mirror"
            )


def _digest(drive: Drive, number: int, place: int) -> bytes:
    needed = min(BLOCK_BYTES, drive.size(number) - place)
    with page_memory(BLOCK_BYTES) as block, memoryview(block) as view:
        drive.read(number, place, view, needed)
        return hashlib.sha256(view[:needed]).digest()
