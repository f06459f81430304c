"""Packages that k2lite uses besides torch: which are there, and what is missing without each."""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from k2lite.doctor.driver import driver_version
from k2lite.doctor.finding import Finding
from quant.errors import LibraryError


@dataclass(frozen=True)
class _Package:
    name: str
    module: str
    needed: bool
    use: str


_PACKAGES = (
    _Package("gguf", "gguf", True, "models cannot be converted"),
    _Package("tokenizers", "tokenizers", True, "no text can be turned into tokens"),
    _Package("jinja2", "jinja2", True, "chat templates cannot be followed"),
    _Package("textual", "textual", True, "k2lite chat has no screen"),
    _Package("accelerate", "accelerate", True, "k2lite plan cannot divide layers over cards"),
    _Package("bitsandbytes", "bitsandbytes", False, "NF4 is computed by k2lite's own code, and not on cards"),
)
_FOR_CARDS = (_Package("triton", "triton", False, "cards cannot multiply quantized weights"),)


def package_findings() -> Iterator[Finding]:
    """One finding for each package, and whether ggml's library is the one that k2lite knows."""
    yield _ggml()
    for package in _PACKAGES if driver_version() is None else (*_PACKAGES, *_FOR_CARDS):
        if importlib.util.find_spec(package.module) is not None:
            yield Finding(package.name, "ok", _version(package.name))
        elif package.needed:
            yield Finding(package.name, "fails", "missing", f"pip install {package.name}: without it {package.use}")
        else:
            yield Finding(package.name, "hint", "missing", f"pip install {package.name}: without it {package.use}")


def _ggml() -> Finding:
    from quant.ggml_library import load_ggml

    if importlib.util.find_spec("llama_cpp") is None:
        advice = "pip install llama-cpp-python: without it rare block types cannot be made or multiplied quickly"
        return Finding("llama-cpp-python", "hint", "missing", advice)
    try:
        load_ggml()
    except LibraryError as error:
        return Finding("llama-cpp-python", "hint", _version("llama-cpp-python"), f"{error}")
    return Finding("llama-cpp-python", "ok", _version("llama-cpp-python"))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"
