"""Opening an output with the readers of others: the gguf package for GGUF files, safetensors for its own."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quant.convert.codec import BlockCodec
from quant.convert.job_types import ConversionStopped, ConvertJob, PlannedTensor
from quant.convert.output_layout import OutputFile
from quant.convert.verify_result import VerificationError
from quant.gguf import gguf_witness

# A header that the reader opens at once here. Longer ones, with a vocabulary, go to a process of their own.
_SMALL_HEADER_BYTES = 1 << 17

_TICK_S = 0.1


def check_format(job: ConvertJob, stop: threading.Event | None) -> tuple[str, ...]:
    """Open every file of a job and compare what is found with the plan. Returns the packages that did.

    Raises VerificationError when a reader refuses a file or finds something else in it, ConversionStopped.
    """
    planned = iter(job.tensors)
    witnesses: dict[str, None] = {}
    for file in job.layout.files:
        tensors = [next(planned) for _ in file.tensors]
        path = job.layout.part_path(file)
        if file.path.suffix == ".gguf":
            _compare(path, _expected(file, tensors), _found(path, file, stop))
            witnesses[f"gguf {version('gguf')}"] = None
        elif file.path.suffix == ".safetensors":
            _check_safetensors(path, [tensor.source.name for tensor in tensors])
            witnesses[f"safetensors {version('safetensors')}"] = None
    return tuple(witnesses)


def _expected(file: OutputFile, tensors: list[PlannedTensor]) -> Iterator[dict[str, Any]]:
    for tensor, laid_out, start in zip(tensors, file.tensors, file.starts, strict=True):
        if not isinstance(tensor.codec, BlockCodec):
            raise ValueError(f"{laid_out.name}: {tensor.codec.name} is no type of GGUF files")
        yield {
            "name": laid_out.name,
            "type": tensor.codec.type.ggml_id,
            "shape": list(tensor.source.shape),
            "start": start,
            "nbytes": laid_out.nbytes,
        }


def _found(path: Path, file: OutputFile, stop: threading.Event | None) -> list[dict[str, Any]]:
    if len(file.header) <= _SMALL_HEADER_BYTES:
        with _refusals("gguf", path):
            return gguf_witness.found_tensors(path)
    script = Path(gguf_witness.__file__)
    # -P: the script's folder, which holds a types.py, must not come before the standard library.
    with subprocess.Popen([sys.executable, "-P", script, path], stdout=subprocess.PIPE) as process:
        try:
            answer = _answer(process, path, stop)
        finally:
            process.kill()
    if "tensors" not in answer:
        raise _refused("gguf", path, str(answer.get("error")))
    return list(answer["tensors"])


def _answer(process: "subprocess.Popen[bytes]", path: Path, stop: threading.Event | None) -> dict[str, Any]:
    """What the process prints. Raises ConversionStopped as soon as `stop` is set."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=_TICK_S)
            break
        if stop is not None and stop.is_set():
            raise ConversionStopped(f"stopped while {path} was verified: everything is written")
    try:
        return dict(json.loads(output))
    except ValueError as error:
        raise _refused("gguf", path, f"it ended with exit code {process.returncode}") from error


def _compare(path: Path, expected: Iterator[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    planned = list(expected)
    for ours, theirs in zip(planned, found, strict=False):
        if ours != theirs:
            key = next(key for key in ours if ours[key] != theirs[key])
            raise _refused("gguf", path, f"it finds {key} {theirs[key]} instead of {ours[key]} for {ours['name']}")
    if len(planned) != len(found):
        raise _refused("gguf", path, f"it finds {len(found)} tensors instead of {len(planned)}")


def _check_safetensors(path: Path, names: list[str]) -> None:
    """Every planned tensor must be there under its name. Others may be: a type may keep its scales as tensors."""
    from safetensors import safe_open

    with _refusals("safetensors", path), safe_open(path, framework="pt") as file:
        found = set(file.keys())
    missing = [name for name in names if name not in found]
    if missing:
        raise _refused("safetensors", path, f"it does not find {missing[0]} and {len(missing) - 1} more")


@contextlib.contextmanager
def _refusals(package: str, path: Path) -> Iterator[None]:
    try:
        yield
    # Neither package has an error of its own for everything that it may stumble over.
    except Exception as error:
        raise _refused(package, path, f"{type(error).__name__}: {error}") from error


def _refused(package: str, path: Path, what: str) -> VerificationError:
    return VerificationError(
        f"the {package} package does not read {path} as it was meant: {what}. This is a mistake of k2lite, please "
        "report it: --no-verify keeps the file",
        None,
    )
