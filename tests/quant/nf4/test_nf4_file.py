"""NF4 folders as anybody may have made them: what is there is checked before it is used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from quant.errors import CheckpointError, K2Error, UnsupportedError
from quant.nf4.nested import nest_factors
from quant.nf4.nf4_file import Nf4Entry, Nf4Folder, PlainEntry, is_nf4_folder
from quant.nf4.values import encode_nf4, nf4_table

NAME = "model.layers.0.self_attn.o_proj.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"
CONFIG = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
SHAPE = (96, 128)


def as_json(fields: dict[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(fields).encode()), dtype=torch.uint8)


def values() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.5, 2, SHAPE[0])[:, None]


def tensors(double_quant: bool) -> dict[str, Tensor]:
    """What bitsandbytes stores, written out by hand."""
    codes, factors = encode_nf4(values())
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(SHAPE)}
    stored = {NAME: torch.from_numpy(codes)[:, None], f"{NAME}.quant_map": nf4_table()}
    if double_quant:
        nested = nest_factors(factors)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": nested.offset}
        stored[f"{NAME}.absmax"] = torch.from_numpy(nested.codes)
        stored[f"{NAME}.nested_absmax"] = torch.from_numpy(nested.factors)
        stored[f"{NAME}.nested_quant_map"] = torch.from_numpy(nested.table)
    else:
        stored[f"{NAME}.absmax"] = torch.from_numpy(factors)
    return stored | {STATE: as_json(state), "model.norm.weight": torch.ones(5, dtype=torch.bfloat16)}


def write(folder: Path, stored: dict[str, Tensor], config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(stored, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("double_quant", [False, True])
def test_a_matrix_is_read_and_what_is_plain_stays_plain(tmp_path: Path, double_quant: bool) -> None:
    with Nf4Folder(write(tmp_path / "m", tensors(double_quant))) as folder:
        matrix, norm = folder.entries[NAME], folder.entries["model.norm.weight"]
        assert folder.entries.keys() == {NAME, "model.norm.weight"}
        assert isinstance(matrix, Nf4Entry)
        assert (matrix.shape, matrix.block, matrix.storage) == (SHAPE, 64, "NF4")
        assert matrix.nbytes == sum(t.nbytes for name, t in tensors(double_quant).items() if name.startswith(NAME))
        decoded = matrix.decode()
        assert decoded.shape == SHAPE
        assert float((decoded - values()).norm() / values().norm()) < 0.11
        assert isinstance(norm, PlainEntry)
        assert (norm.storage, norm.nbytes) == ("BF16", 10)
        assert torch.equal(norm.decode(), torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_codes_may_be_stored_as_another_type(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = tensors(False)
    stored[NAME] = stored[NAME].view(-1).view(dtype)[:, None]
    with Nf4Folder(write(tmp_path / "m", stored)) as other, Nf4Folder(write(tmp_path / "n", tensors(False))) as usual:
        assert torch.equal(other.entries[NAME].decode(), usual.entries[NAME].decode())


def test_larger_blocks_are_read(tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(values(), blocksize=256, quant_type="nf4")
    stored = {NAME: packed} | {f"{NAME}.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    state.shape = torch.Size([1, values().numel()])  # on the CPU it wants rows that end with a block
    with Nf4Folder(write(tmp_path / "m", stored)) as folder:
        assert torch.equal(folder.entries[NAME].decode(), dequantize_4bit(packed, state).view(SHAPE))


def test_only_folders_of_bitsandbytes_are_taken_for_it(tmp_path: Path) -> None:
    assert is_nf4_folder(write(tmp_path / "m", tensors(False)))
    other = {"quantization_config": {"quant_method": "fp8"}}
    for config in ({}, {"quantization_config": None}, {"quantization_config": [1]}, other):
        assert not is_nf4_folder(write(tmp_path / "n", tensors(False), config))
    (tmp_path / "n" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        is_nf4_folder(tmp_path / "n")


@pytest.mark.parametrize(("field", "value"), [("load_in_4bit", False), ("bnb_4bit_quant_type", "fp4")])
def test_other_formats_of_bitsandbytes_are_refused(tmp_path: Path, field: str, value: object) -> None:
    config = {"quantization_config": CONFIG["quantization_config"] | {field: value}}
    with pytest.raises(UnsupportedError, match=f"{field} is {value!r}"):
        Nf4Folder(write(tmp_path / "m", tensors(False), config))


def drop(suffix: str) -> Callable[[dict[str, Tensor]], None]:
    def change(stored: dict[str, Tensor]) -> None:
        del stored[NAME + suffix]

    return change


def put(suffix: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda stored: stored.update({NAME + suffix: tensor})


def state(**fields: object) -> Callable[[dict[str, Tensor]], None]:
    def change(stored: dict[str, Tensor]) -> None:
        stored[STATE] = as_json(json.loads(bytes(stored[STATE].numpy())) | fields)

    return change


DAMAGE = {
    "no factors": (drop(".absmax"), "absmax is missing"),
    "no table": (drop(".quant_map"), "quant_map is missing"),
    "no state": (drop(".quant_state.bitsandbytes__nf4"), "no NF4 state"),
    "no table of factors": (drop(".nested_quant_map"), "nested_quant_map is missing"),
    "few codes": (put("", torch.zeros(100, 1, dtype=torch.uint8)), "needs 6144"),
    "few factors": (put(".absmax", torch.zeros(100, dtype=torch.uint8)), "needs 192"),
    "factors of another type": (put(".nested_absmax", torch.zeros(2, dtype=torch.bfloat16)), "needs 4"),
    "state in numbers": (put(".quant_state.bitsandbytes__nf4", torch.zeros(3)), "a few words of JSON"),
    "long state": (put(".quant_state.bitsandbytes__nf4", torch.zeros(9999, dtype=torch.uint8)), "a few words of JSON"),
    "broken state": (put(".quant_state.bitsandbytes__nf4", torch.zeros(9, dtype=torch.uint8)), "not valid JSON"),
    "other type": (state(quant_type="fp4"), "quant_type is 'fp4'"),
    "no shape": (state(shape=None), "shape is None"),
    "another shape": (state(shape=[96, 64]), "needs 3072"),
    "shape in three": (state(shape=[96, 64, 2]), "not two sizes"),
    "shape of nothing": (state(shape=[0, 64]), "not two sizes"),
    "negative shape": (state(shape=[-96, -128]), "not two sizes"),
    "endless shape": (state(shape=[10**30, 1]), "not two sizes"),
    "odd block": (state(blocksize=63), "blocksize is 63"),
    "no block": (state(blocksize=0), "blocksize is 0"),
    "odd nested block": (state(nested_blocksize=True), "nested_blocksize is True"),
    "offset in words": (state(nested_offset="1"), "nested_offset is '1'"),
    "endless offset": (state(nested_offset=float("inf")), "nested_offset is inf"),
    "no offset": (state(nested_offset=float("nan")), "nested_offset is nan"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, damage: str) -> None:
    stored = tensors(double_quant=True)
    change, message = DAMAGE[damage]
    change(stored)
    with pytest.raises(K2Error, match=message):
        Nf4Folder(write(tmp_path / "m", stored))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["absmax", "nested_absmax", "nested_quant_map"])
def test_factors_that_are_no_numbers_are_refused(tmp_path: Path, suffix: str, bad: float) -> None:
    stored = tensors(double_quant=suffix != "absmax")
    stored[f"{NAME}.{suffix}"][:] = bad
    with Nf4Folder(write(tmp_path / "m", stored)) as folder, pytest.raises(CheckpointError, match="NaN or infinite"):
        folder.entries[NAME].decode()


@pytest.mark.parametrize("table", [nf4_table().flip(0), torch.full((16,), float("nan")), nf4_table() + 0.01])
def test_another_table_is_refused(tmp_path: Path, table: Tensor) -> None:
    stored = tensors(False) | {f"{NAME}.quant_map": table}
    with Nf4Folder(write(tmp_path / "m", stored)) as folder, pytest.raises(UnsupportedError, match="not the table"):
        folder.entries[NAME].decode()


def test_a_plain_tensor_of_another_type_is_refused(tmp_path: Path) -> None:
    stored = tensors(False) | {"model.norm.weight": torch.ones(4, dtype=torch.int32)}
    with pytest.raises(UnsupportedError, match="I32"):
        Nf4Folder(write(tmp_path / "m", stored))
