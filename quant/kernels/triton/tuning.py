"""How the kernels are cut into programs: values that were measured to be good, and a tuner that measures others."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton

from quant.kernels.triton.decoders import Decoder

_BLOCK_WEIGHTS = 256
_MEASURE_MS = 20


@dataclass(frozen=True)
class Cut:
    """`rows` of a matrix in a program, `blocks` of 256 weights at a time, `warps` threads of 32."""

    rows: int
    blocks: int
    warps: int = 1

    def of_type(self, decoder: Decoder) -> int:
        """The type's own blocks at a time."""
        return self.blocks * _BLOCK_WEIGHTS // decoder.type.block_weights


DEFAULT = Cut(rows=4, blocks=4)


class Cuts:
    """The cut of each kernel, type and shape: measured once where `folder` is given, else what is known to be good.

    Measurements are kept in a file of the folder for each card and version of the kernels. One thread at a time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._found: dict[str, Cut] = {}
        self._file: Path | None = None

    def choose(self, kernel: str, decoder: Decoder, shape: tuple[int, ...], run: Callable[[Cut], object]) -> Cut:
        """The cut for `kernel` on matrices of `shape`; `run` launches it with one, on inputs like the real ones."""
        key = f"{kernel} {decoder.type} {'x'.join(map(str, shape))}"
        if key not in self._found:
            self._found[key] = self._measured(key, decoder, shape[-1], run) if self._folder else DEFAULT
        return self._found[key]

    def _measured(self, key: str, decoder: Decoder, cols: int, run: Callable[[Cut], object]) -> Cut:
        file = self._path()
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if key not in known:
            if torch.cuda.is_current_stream_capturing():
                return DEFAULT  # nothing can be measured while a graph is recorded
            times = {cut: milliseconds(lambda cut=cut: run(cut)) for cut in candidates(cols)}  # type: ignore[misc]
            known[key] = asdict(min(times, key=lambda cut: times[cut]))
            _write(file, known)
        return Cut(**known[key])

    def _path(self) -> Path:
        if self._file is None:
            assert self._folder is not None
            name = torch.cuda.get_device_name()
            source = Path(__file__).parent
            code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source.glob("*.py"))))
            version = f"{name}-{triton.__version__}-{code.hexdigest()[:12]}".replace(" ", "-")
            self._file = self._folder / f"{version}.json"
        return self._file


def candidates(cols: int) -> Iterator[Cut]:
    """The bounds of the search: at most 24 cuts."""
    for rows in (1, 2, 4, 8):
        for blocks, warps in ((2, 1), (4, 1), (8, 1), (8, 2), (16, 4), (32, 8)):
            if blocks * _BLOCK_WEIGHTS < 2 * cols:
                yield Cut(rows, blocks, warps)


def milliseconds(run: Callable[[], object]) -> float:
    """Median time on the device, with the caches emptied before each run."""
    return float(triton.testing.do_bench(run, warmup=5, rep=_MEASURE_MS, return_mode="median"))


def _write(file: Path, known: dict[str, dict[str, int]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    temporary.replace(file)
