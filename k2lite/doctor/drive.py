"""The drive that models are read from."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from k2lite.doctor.finding import Finding
from k2lite.sizes import format_bytes
from offload.probe_drive import ProbeError, file_system_of, probe_drive

_FAST = 2e9  # bytes/s; below, any model that does not fit in memory is a matter of patience
_LEAST_FREE = 20 << 30
_NOT_A_DRIVE = ("tmpfs", "ramfs")
_FAR_AWAY = ("nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs")


def drive_findings(folder: Path, measure: bool) -> Iterator[Finding]:
    """What is to say about the drive of `folder`, or of the part of its path that exists."""
    place = next(candidate for candidate in (folder, *folder.parents) if candidate.is_dir())
    yield _room(folder, place)
    if measure:
        yield _speed(place)


def _room(folder: Path, place: Path) -> Finding:
    kind, free = file_system_of(place), shutil.disk_usage(place).free
    value = f"{folder} on {kind}, {format_bytes(free)} free"
    if kind in _NOT_A_DRIVE:
        return Finding("drive", "hint", value, "this is memory: put models on a real drive (K2LITE_HOME=FOLDER)")
    if kind in _FAR_AWAY:
        return Finding("drive", "hint", value, "a network drive is read slowly: copy models to a local one")
    if free < _LEAST_FREE:
        return Finding("drive", "hint", value, "models take from 10 GB to 620 GB (k2lite plan says how much)")
    return Finding("drive", "ok", value)


def _speed(place: Path) -> Finding:
    try:
        found = probe_drive(place)
    except ProbeError as error:
        return Finding("drive speed", "hint", "not measured", f"{error}")
    value = f"{found.bytes_per_s / 1e9:.2f} GB/s, 8 reads of 4 MiB at a time, {'direct' if found.direct else 'cached'}"
    if not found.direct:
        return Finding("drive speed", "hint", value, "this file system has no direct reads: ext4 and xfs have")
    if found.bytes_per_s < _FAST:
        advice = "fine for models that fit in memory; for larger ones an NVMe drive of 3.5 GB/s or more pays"
        return Finding("drive speed", "hint", value, advice)
    return Finding("drive speed", "ok", value)
