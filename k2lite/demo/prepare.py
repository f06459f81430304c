"""The built-in demo model: shipped as K2 is published, quantized at the first start as K2 is quantized."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from k2lite import __version__
from k2lite.environment import cache_folder
from k2lite.events import LoadProgress
from quant.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from quant.convert.job_types import ConvertProgress

DEMO_RECIPE = "Q4_K_M"
DEMO_NAME = "k2lite demo"


def demo_source() -> Path:
    """The checkpoint folder inside the package."""
    return Path(__file__).resolve().parent / "model"


def demo_eval_text() -> Path:
    """A text the demo model has not been trained on, for `k2lite eval`."""
    return Path(__file__).resolve().parent / "eval_text.txt"


def prepare_demo_model(
    report: Callable[[LoadProgress], None], source: Path | None = None, cache: Path | None = None
) -> Path:
    """The quantized demo model in the cache folder, made now if it is not there.

    The file's name holds a hash of the source and the program's version, so neither can be out of date. It appears
    whole or not at all; when two processes start at once both make it and the second one's takes the first one's
    place, byte for byte the same. Raises K2Error.
    """
    source, cache = source or demo_source(), cache or cache_folder()
    if not (source / "config.json").is_file():
        raise CheckpointError(f"the built-in demo model is not in {source}: install k2lite again, or name a MODEL")
    destination = cache / f"k2lite-demo-{content_hash(source)}-{DEMO_RECIPE}.gguf"
    if not destination.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as folder:
                _quantize(source, Path(folder), report).replace(destination)
        except OSError as error:
            raise OutputError(
                f"the demo model cannot be written to {cache}: {error.strerror or error}: "
                "make room, or set K2LITE_HOME to a folder that can be written"
            ) from error
    return destination


def content_hash(folder: Path) -> str:
    """Sixteen hex digits over the program's version, the model's name, and names and bytes of all files in `folder`."""
    digest = hashlib.sha256(f"{__version__} {DEMO_NAME}\n".encode())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _quantize(source: Path, folder: Path, report: Callable[[LoadProgress], None]) -> Path:
    """Run the normal converter; returns the finished file inside `folder`."""
    from k2lite.quantize.options import QuantizeOptions
    from k2lite.quantize.quantize import quantize

    def progress(state: "ConvertProgress") -> None:
        report(LoadProgress(state.written_bytes, state.total_bytes, stage="quantize"))

    made = folder / "demo.gguf"
    quantize(source, made, QuantizeOptions(DEMO_RECIPE, name=DEMO_NAME), progress=progress)
    return made
