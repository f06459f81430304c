"""Reading a tensor of any size part by part takes the memory of one part."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quant.checkpoint.checkpoint import Checkpoint
from quant.checkpoint.part_size import PART_WEIGHTS, rows_in_part
from tests.quant.raw_safetensors import FP8_CONFIG, INT4_CONFIG

ROWS, COLS = 32768, 4096
_ITEM_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4}
STORED = {
    "BF16": ({}, {"a.weight": ("BF16", [ROWS, COLS])}),
    "F32": ({}, {"a.weight": ("F32", [ROWS, COLS])}),
    "FP8": (
        FP8_CONFIG,
        {"a.weight": ("F8_E4M3", [ROWS, COLS]), "a.weight_scale_inv": ("F32", [ROWS // 128, COLS // 128])},
    ),
    "INT4": (
        INT4_CONFIG,
        {"a.weight_packed": ("I32", [ROWS, COLS // 8]), "a.weight_scale": ("BF16", [ROWS, COLS // 32])},
    ),
}


def sparse_folder(folder: Path, storage: str) -> Path:
    """A checkpoint of zeros that takes next to no room on the drive."""
    config, tensors = STORED[storage]
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + _ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with (folder / "x.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        os.truncate(file.fileno(), 8 + len(raw) + end)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def peak_bytes_of_reading(folder: Path, way: str) -> int:
    """How much the process grows while it reads all parts; meant for a process of its own."""
    rows = rows_in_part(ROWS, COLS)
    with Checkpoint.open(folder) as checkpoint:
        read = getattr(checkpoint, way)
        read("a.weight", 0, 128)
        before = peak_resident_bytes()
        for start in range(0, ROWS, rows):
            read("a.weight", start, start + rows)
        return peak_resident_bytes() - before


def peak_resident_bytes() -> int:
    """Of this program alone: `getrusage` also counts what the process was before it became this program."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "way", "bytes_per_weight"),
    [
        ("BF16", "read_rows", 4.0),
        ("F32", "read_rows", 4.0),
        ("FP8", "read_rows", 4.0),
        ("INT4", "read_rows", 4.0 + 2 / 32),
        ("INT4", "read_q4_0", 18 / 32 + 2 / 32),
        ("BF16", "read_stored", 2.0),
    ],
)
def test_memory_stays_at_one_part(tmp_path: Path, storage: str, way: str, bytes_per_weight: float) -> None:
    folder = sparse_folder(tmp_path, storage)
    code = f"from {__name__} import *; print(peak_bytes_of_reading(Path({str(folder)!r}), {way!r}))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    grown, result = int(run.stdout), PART_WEIGHTS * bytes_per_weight
    assert 0.5 * result < grown < result + 24e6
