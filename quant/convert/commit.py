"""The last step of a conversion: complete files get their names. Each step may be the last before a power cut."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from quant.convert.journal import RESTART_HINT, Journal
from quant.convert.output_layout import OutputFile, OutputLayout
from quant.convert.resume import Place
from quant.errors import OutputError
from quant.files.part_file import sync_folder


def refuse_existing(layout: OutputLayout) -> None:
    """Raise OutputError when a name that the output needs is taken."""
    for path in (layout.destination, *(file.path for file in layout.files)):
        if os.path.lexists(path):
            raise OutputError(f"{path} exists already: delete it or choose another name")


def name_files(layout: OutputLayout, journal: Journal) -> None:
    """Give complete files their names, those that do not have them yet, and end the journal.

    Raises OutputError when a name is taken or a file is gone. Safe to repeat after a crash at any point.
    """
    try:
        if layout.is_folder:
            _name_folder(layout)
        else:
            for file in layout.files:
                _name_file(layout, file)
        sync_folder(layout.destination.parent)
        journal.remove()
        sync_folder(layout.destination.parent)
    except OSError as error:
        raise OutputError(f"cannot finish {layout.destination}: {error.strerror}") from error


def _name_file(layout: OutputLayout, file: OutputFile) -> None:
    part = layout.part_path(file)
    if not part.exists() and _has_length(file):
        return  # named before the crash
    if os.path.lexists(file.path):
        raise OutputError(f"{file.path} exists already: delete it or move it away")
    if not part.exists():
        raise OutputError(f"{part} is gone: {RESTART_HINT}")
    part.rename(file.path)


def _name_folder(layout: OutputLayout) -> None:
    if not layout.part_folder.exists() and all(map(_has_length, layout.files)):
        return
    if os.path.lexists(layout.destination):
        raise OutputError(f"{layout.destination} exists already: delete it or move it away")
    if not layout.part_folder.exists():
        raise OutputError(f"{layout.part_folder} is gone: {RESTART_HINT}")
    layout.part_folder.rename(layout.destination)


def _has_length(file: OutputFile) -> bool:
    try:
        return file.path.stat().st_size == file.nbytes
    except FileNotFoundError:
        return False


def cut_parts(layout: OutputLayout, place: Place) -> None:
    """Remove what the part files hold behind `place`, at the beginning the files themselves. Raises OutputError."""
    try:
        for number, file in enumerate(layout.files):
            path = layout.part_path(file)
            if number == place.file and place.offset:
                os.truncate(path, place.offset)
            elif number >= place.file:
                path.unlink(missing_ok=True)
        if layout.is_folder and place == Place(0, 0) and layout.part_folder.exists():
            layout.part_folder.rmdir()
    except OSError as error:
        hint = "move away what is in it" if layout.is_folder else "remove it by hand"
        raise OutputError(f"cannot remove {error.filename}: {error.strerror}: {hint}") from error


def part_names(layout: OutputLayout) -> list[str]:
    """The part files as the journal lists them: relative to the folder in which it lies."""
    return [str(layout.part_path(file).relative_to(layout.destination.parent)) for file in layout.files]


def discard_foreign_parts(layout: OutputLayout, names: Sequence[str]) -> None:
    """Remove the part files that a journal lists and that this layout does not have, as for shards of another size.

    A name that no layout makes is left alone: the journal is a file like any other, and may be wrong.
    """
    folder = layout.destination.parent
    for name in map(Path, names):
        inside = name.parent in (Path(), Path(layout.part_folder.name)) and ".." not in name.parts
        if inside and ".part" in (name.suffix, name.parent.suffix):
            (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        layout.part_folder.rmdir()
