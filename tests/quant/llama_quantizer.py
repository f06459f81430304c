"""llama.cpp's quantizer, asked which type each tensor gets: on files of the right shape that take no room."""

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp._logger import llama_log_callback

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.gguf_metadata import model_metadata
from k2lite.tensor_layout import tensor_layouts
from quant.gguf.gguf_writer import TensorSpec, gguf_header
from quant.recipe.recipe import RECIPES
from quant.types import block_type
from tests.tiny_families import FAMILIES, decoder_config

LLAMA_CPP_RECIPES = tuple(name for name in RECIPES if name not in ("INT4", "LOSSLESS", "K2_4"))

NamedShapes = list[tuple[str, tuple[int, ...]]]

_LINE = re.compile(r"\] +(\S+) +- \[[^]]*\], type = +(\w+), (?:size = [^\n]*?MiB -> [^\n]*\((\w+)\))?")


def tiny_config(family: str, layers: int, experts: int, hidden: int = 256) -> ModelConfig:
    """The config of a model of this family's shape with tiny widths."""
    config = decoder_config(FAMILIES[family], layers=layers, experts=experts, hidden=hidden, expert_width=None)
    return config_from_json(config, name="tiny")


def named_shapes(config: ModelConfig) -> NamedShapes:
    """All tensors of the model."""
    return [(layout.name, layout.shape) for layout in tensor_layouts(config)]


def write_sparse_model(path: Path, config: ModelConfig, tensors: NamedShapes) -> Path:
    """An F32 file with the right header and holes for data."""
    specs = [TensorSpec(name, block_type("F32"), shape) for name, shape in tensors]
    header = gguf_header(model_metadata(config, "tiny", 0), specs)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(spec.padded_bytes for spec in specs))
    return path


def planned_types(source: Path, file_type: int, imatrix: bool = False) -> dict[str, str]:
    """What llama.cpp would make of every tensor of `source`, from what its dry run says."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.dry_run = file_type, 1, True
    empty = (llama_cpp.llama_model_imatrix_data * 1)()
    if imatrix:
        parameters.imatrix = empty
    with _log() as lines:
        assert llama_cpp.llama_model_quantize(bytes(source), b"unused", ctypes.byref(parameters)) == 0, "".join(lines)
    found = _LINE.findall("".join(lines))
    return {name: (after or before).upper() for name, before, after in found}


def quantize(
    source: Path, path: Path, file_type: int, importance: Sequence[tuple[str, np.ndarray]] | None = None
) -> int:
    """Quantize for real and return llama.cpp's status. `importance`: by name, float32, slabs one after the other."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = file_type, 2, True
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance or ()) + 1))()
    for entry, (name, values) in zip(entries, importance or (), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if importance is not None:
        parameters.imatrix = entries
    with _log():
        return int(llama_cpp.llama_model_quantize(bytes(source), bytes(path), ctypes.byref(parameters)))


@contextmanager
def _log() -> Iterator[list[str]]:
    """What llama.cpp says within the block, in pieces."""
    pieces: list[str] = []

    @llama_cpp.llama_log_callback
    def keep(level: int, text: bytes, data: object) -> None:
        pieces.append(text.decode(errors="replace"))

    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        yield pieces
    finally:
        llama_cpp.llama_log_set(llama_log_callback, ctypes.c_void_p(0))
