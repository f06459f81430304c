"""Ways in which a checkpoint folder arrives damaged. Each changes a good folder of tests.tiny in place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
NORM = "model.layers.0.input_layernorm.weight"
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


def first_shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def cut_shard(folder: Path, nbytes: int) -> None:
    """Keep `nbytes` of the first shard, counted from its end when negative."""
    path = first_shard(folder)
    path.write_bytes(path.read_bytes()[:nbytes])


def change_config(folder: Path, **fields: Any) -> None:
    """Set fields of config.json; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def change_index(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Change the table of tensor name -> file name."""
    path = folder / INDEX
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"weight_map": change(content["weight_map"])}))


def change_tensor(folder: Path, name: str, change: Callable[[Tensor], Tensor | None]) -> None:
    """Replace a tensor in its shard, or take it out where `change` returns None. The index goes along."""
    path = next(path for path in folder.glob("*.safetensors") if name in load_file(path))
    tensors = load_file(path)
    changed = change(tensors.pop(name))
    if changed is None:
        change_index(folder, lambda names: {key: file for key, file in names.items() if key != name})
    else:
        tensors[name] = changed.contiguous()
    save_file(tensors, path)


def with_nan(values: Tensor) -> Tensor:
    values = values.clone()
    values.view(-1)[3] = torch.nan
    return values


def with_nan_code(codes: Tensor) -> Tensor:
    """FP8 has one code for NaN, 0x7F."""
    codes = codes.clone()
    codes.view(torch.uint8).view(-1)[5] = 0x7F
    return codes
