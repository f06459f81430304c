"""The layout of safetensors files, read back with the format's own library."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from quant.checkpoint.safetensors_file import SafetensorsFile
from quant.checkpoint.safetensors_writer import SafetensorsSpec, safetensors_layout
from quant.convert.output_layout import OutputLayout, OutputTensor
from quant.errors import OutputError
from quant.files.fresh_output import write_fresh

TENSORS = {
    "codes": ("F8_E4M3", torch.arange(15, dtype=torch.uint8).view(torch.float8_e4m3fn).view(3, 5)),
    "scales": ("F32", torch.tensor([[1.5, -2.0]])),
    "ümlaut": ("BF16", torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)),
    "shape": ("I32", torch.tensor([3, 5], dtype=torch.int32)),
}


def written(folder: Path) -> Path:
    path = folder / "a.safetensors"
    specs = [SafetensorsSpec(name, dtype, tuple(values.shape)) for name, (dtype, values) in TENSORS.items()]

    def content(tensor: OutputTensor) -> list:
        return [TENSORS[tensor.name][1].view(torch.uint8).view(-1).numpy()]

    write_fresh(OutputLayout(path, (safetensors_layout(path, specs, {"format": "pt"}),)), content)
    return path


def test_the_formats_own_library_reads_every_tensor(tmp_path: Path) -> None:
    with safe_open(written(tmp_path), "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == sorted(TENSORS)
        for name, (_, values) in TENSORS.items():
            read = file.get_tensor(name)
            assert (read.dtype, read.shape) == (values.dtype, values.shape)
            assert torch.equal(read.view(torch.uint8), values.view(torch.uint8)), name


def test_every_tensor_is_aligned_to_its_values(tmp_path: Path) -> None:
    file = SafetensorsFile(written(tmp_path))
    offsets = {name: stored.offset for name, stored in file.tensors.items()}
    file.close()
    assert offsets["scales"] % 8 == offsets["shape"] % 4 == offsets["ümlaut"] % 2 == 0
    assert offsets["codes"] > offsets["ümlaut"] > offsets["shape"] > offsets["scales"]


def test_a_name_that_comes_twice_is_refused() -> None:
    spec = SafetensorsSpec("a", "F32", (1,))
    with pytest.raises(OutputError, match="'a' would be in x twice"):
        safetensors_layout(Path("x"), [spec, spec])


def test_an_unknown_dtype_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="Q4_K"):
        safetensors_layout(Path("x"), [SafetensorsSpec("a", "Q4_K", (256,))])
