"""llama.cpp's quantizer is given our importance: it chooses the same bytes as our encoders with the same numbers."""

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch

from k2lite.cli.main import main
from k2lite.imatrix import ImatrixJob, collect_imatrix
from quant.encode.decode import dequantize
from quant.encode.encode import encode
from quant.gguf.gguf_file import GgufFile
from quant.imatrix.imatrix import Imatrix
from tests.tiny import write_checkpoint

TEXT = "The quick brown fox jumps over 12 lazy dogs; they are not amused, and say so: woof! " * 6
Q2_K, IQ4_XS, IQ3_XXS = 10, 30, 23  # llama.cpp's numbers of its recipes
OURS = ("Q4_K", "Q5_K", "Q6_K")  # types with an encoder of our own, whose bytes differ


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("peer") / "k2", "k2", layers=2, experts=8)
    assert main(["quantize", str(folder), str(folder / "k2.gguf"), "--type", "F32"]) == 0
    return folder / "k2.gguf"


@pytest.fixture(scope="module")
def imatrix(model: Path):
    path = model.with_name("imatrix.gguf")
    collect_imatrix(ImatrixJob(model, TEXT, "fox.txt", path, chunk_tokens=3, max_chunks=1, threads=1))
    with Imatrix.open(path) as opened:
        assert opened.unseen()  # some experts get neutral weights in what follows
        yield opened


def quantize_there(source: Path, path: Path, file_type: int, imatrix: Imatrix) -> Path:
    """llama.cpp's quantizer with the numbers of `imatrix`, as its command line tool hands them over."""
    with GgufFile.open(source) as file:
        shapes = {name: info.shape for name, info in file.tensors.items()}
    values = {name: imatrix.importance(name, shape) for name, shape in shapes.items()}
    flat = {name: value.flatten().numpy() for name, value in values.items() if value is not None}
    entries = (llama_cpp.llama_model_imatrix_data * (len(flat) + 1))()
    for entry, (name, numbers) in zip(entries, flat.items(), strict=False):
        entry.name, entry.size = name.encode(), len(numbers)
        entry.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.imatrix = file_type, 2, entries
    assert llama_cpp.llama_model_quantize(bytes(source), bytes(path), ctypes.byref(parameters)) == 0
    return path


SLOW = [pytest.param(file_type, marks=pytest.mark.slow) for file_type in (IQ4_XS, IQ3_XXS)]


@pytest.mark.parametrize("file_type", [Q2_K, *SLOW])
def test_llama_cpp_makes_the_same_bytes_of_the_same_importance(
    model: Path, imatrix: Imatrix, file_type: int, tmp_path: Path
) -> None:
    path = quantize_there(model, tmp_path / "theirs.gguf", file_type, imatrix)
    weighted, experts = 0, 0
    with GgufFile.open(model) as source, GgufFile.open(path) as theirs:
        for name, info in theirs.tensors.items():
            importance = imatrix.importance(name, info.shape)
            if info.type.name in (*OURS, "F32") or importance is None:
                continue
            values = dequantize(source.tensor(name)).view(len(importance), -1, info.shape[-1])
            slabs = [encode(slab, info.type, weights) for slab, weights in zip(values, importance, strict=True)]
            assert np.array_equal(np.concatenate(slabs), theirs.tensor(name).data), (name, info.type)
            plain = [encode(slab, info.type, torch.ones(info.shape[-1])) for slab in values]
            weighted += not np.array_equal(np.concatenate(plain), theirs.tensor(name).data)
            experts += len(info.shape) == 3
    assert weighted > 3 and experts > 2
