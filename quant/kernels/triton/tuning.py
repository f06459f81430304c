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


# The fastest on an H200 at the width of K2, for one token.
_KNOWN = {
    ("gate_up", "Q4_K"): Cut(4, 4),
    ("gate_up", "Q5_K"): Cut(1, 4),
    ("gate_up", "Q6_K"): Cut(2, 4),
    ("gate_up", "Q8_0"): Cut(2, 2),
    ("gate_up", "Q4_0"): Cut(4, 2),
    ("gate_up", "Q5_0"): Cut(2, 2),
    ("gate_up", "IQ4_XS"): Cut(2, 4),
    ("down", "Q4_K"): Cut(4, 4),
    ("down", "Q5_K"): Cut(4, 4),
    ("down", "Q6_K"): Cut(4, 2),
    ("down", "Q8_0"): Cut(4, 2),
    ("down", "Q4_0"): Cut(4, 2),
    ("down", "Q5_0"): Cut(2, 4),
    ("down", "IQ4_XS"): Cut(4, 4),
    ("linear", "Q4_K"): Cut(2, 4),
    ("linear", "Q5_K"): Cut(2, 4),
    ("linear", "Q6_K"): Cut(4, 4, 2),
    ("linear", "Q8_0"): Cut(1, 1),
    ("linear", "Q4_0"): Cut(4, 4),
    ("linear", "Q5_0"): Cut(2, 4),
    ("linear", "IQ4_XS"): Cut(2, 4),
}
# The same for 2 to 8 tokens, where it is not four rows of four blocks.
_WIDE = {"Q6_K": Cut(2, 2), "Q8_0": Cut(2, 2), "Q4_0": Cut(4, 1), "Q5_0": Cut(4, 1)}


def known(kernel: str, decoder: Decoder, width: int) -> Cut:
    """What is good for `width` tokens at a time. Each more token takes registers, so that fewer rows fit."""
    if width == 1:
        return _KNOWN[kernel, decoder.type.name]
    wide = _WIDE.get(decoder.type.name, Cut(4, 4))
    return Cut(wide.rows // 2, wide.blocks) if kernel == "gate_up" else wide  # which has rows of two matrices


class Cuts:
    """The cut of each kernel, type and shape: measured once where `folder` is given, else what is known to be good.

    Measurements are kept in a file of the folder for each card and version of the kernels. One thread at a time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._found: dict[str, Cut] = {}
        self._file: Path | None = None

    def choose(
        self, kernel: str, decoder: Decoder, width: int, shape: tuple[int, ...], run: Callable[[Cut], object]
    ) -> Cut:
        """The cut for `kernel` on `shape`, `width` tokens at a time; `run` launches it with one, on the real inputs."""
        if self._folder is None:
            return known(kernel, decoder, width)
        key = f"{kernel} {decoder.type} {width} {'x'.join(map(str, shape))}"
        if key not in self._found:
            if torch.cuda.is_current_stream_capturing():
                return known(kernel, decoder, width)  # nothing can be measured while a graph is recorded
            self._found[key] = self._measured(key, decoder, shape[-1], run)
        return self._found[key]

    def _measured(self, key: str, decoder: Decoder, cols: int, run: Callable[[Cut], object]) -> Cut:
        file = self._path()
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if key not in kept:
            times = {cut: milliseconds(lambda cut=cut: run(cut)) for cut in candidates(decoder, cols)}  # type: ignore[misc]
            kept[key] = asdict(min(times, key=lambda cut: times[cut]))
            _write(file, kept)
        return Cut(**kept[key])

    def _path(self) -> Path:
        if self._file is None:
            assert self._folder is not None
            name = torch.cuda.get_device_name()
            source = Path(__file__).parent
            code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source.glob("*.py"))))
            version = f"{name}-{triton.__version__}-{code.hexdigest()[:12]}".replace(" ", "-")
            self._file = self._folder / f"{version}.json"
        return self._file


def candidates(decoder: Decoder, cols: int) -> Iterator[Cut]:
    """The bounds of the search, at most 15 cuts: none with idle threads, none that reads mostly behind the end."""
    runs = _BLOCK_WEIGHTS // decoder.type.block_weights * decoder.block_words // decoder.run_words  # in 256 weights
    for rows in (1, 2, 4):
        for blocks, warps in ((1, 1), (2, 1), (4, 1), (4, 2), (8, 4)):
            if blocks * _BLOCK_WEIGHTS < 2 * cols and blocks * runs >= 32 * warps:
                yield Cut(rows, blocks, warps)


def milliseconds(run: Callable[[], object]) -> float:
    """Median time on the device, with the caches emptied before each run."""
    return float(triton.testing.do_bench(run, warmup=5, rep=_MEASURE_MS, return_mode="median"))


def _write(file: Path, kept: dict[str, dict[str, int]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    temporary.replace(file)
