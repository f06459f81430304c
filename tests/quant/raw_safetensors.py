"""Writes safetensors files with any header, right or wrong."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def write_raw(path: Path, header: dict[str, Any] | bytes, data: bytes, *, length: int | None = None) -> Path:
    """A file of `header` and `data`; `length` replaces the header's true length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def f32_entry(begin: int, end: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def write_folder(folder: Path, shards: dict[str, dict[str, Tensor]], config: dict[str, Any]) -> Path:
    """A checkpoint folder of `shards` (file name -> tensors) without an index."""
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FP8_CONFIG = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}

INT4_WEIGHTS = {
    "num_bits": 4,
    "type": "int",
    "strategy": "group",
    "group_size": 32,
    "symmetric": True,
    "actorder": None,
}
INT4_CONFIG = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": INT4_WEIGHTS}},
    }
}


def fp8_pair(module: str, rows: int = 130, cols: int = 70) -> dict[str, Tensor]:
    codes = torch.zeros(rows, cols, dtype=torch.uint8).view(torch.float8_e4m3fn)
    scales = torch.ones(-(-rows // 128), -(-cols // 128))
    return {f"{module}.weight": codes, f"{module}.weight_scale_inv": scales}


def int4_triple(module: str, rows: int = 4, cols: int = 64) -> dict[str, Tensor]:
    return {
        f"{module}.weight_packed": torch.zeros(rows, cols // 8, dtype=torch.int32),
        f"{module}.weight_scale": torch.ones(rows, cols // 32, dtype=torch.bfloat16),
        f"{module}.weight_shape": torch.tensor([rows, cols], dtype=torch.int32),
    }
