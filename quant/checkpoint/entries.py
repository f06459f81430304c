"""From tensors on disk to the tensors of the model: prefixes, and the parts that belong to one quantized weight."""

from dataclasses import dataclass
from typing import Literal

from quant.checkpoint.fp8 import scale_shape
from quant.checkpoint.int4 import GROUP, WORD_NIBBLES
from quant.checkpoint.shards import ShardTensor
from quant.checkpoint.weight_scheme import WeightScheme
from quant.errors import CheckpointError, UnsupportedError
from quant.row_shape import RowShaped

Storage = Literal["F32", "F16", "BF16", "FP8", "INT4"]

_TEXT_PREFIX = "language_model."
_VISION_PREFIXES = ("vision_tower.", "mm_projector.")
# A table of rotary frequencies that the model computes from its configuration.
_IGNORED_SUFFIX = "rotary_emb.inv_freq"

_FP8_DTYPE = "F8_E4M3"
_PLAIN: dict[str, Storage] = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
# What stands beside a quantized weight -> the weight it belongs to. The stored shape of INT4 weights is not read:
# published files hold garbage there, and the words and scales say the same.
_COMPANIONS = {
    ".weight_scale_inv": ".weight",
    ".weight_scale": ".weight_packed",
    ".weight_shape": ".weight_packed",
}


@dataclass(frozen=True, slots=True)
class TensorEntry(RowShaped):
    """One tensor of the model: its decoded shape, and where the values and (if quantized) their scales are."""

    name: str
    shape: tuple[int, ...]
    storage: Storage
    values: ShardTensor
    scales: ShardTensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes on the drive, scales included."""
        return self.values.stored.nbytes + (self.scales.stored.nbytes if self.scales else 0)


def list_entries(tensors: dict[str, ShardTensor], scheme: WeightScheme) -> tuple[dict[str, TensorEntry], int]:
    """The model's tensors by name, and the number of those that belong to the vision part.

    Raises CheckpointError when parts of a weight are missing, do not fit each other or contradict `scheme`, and
    UnsupportedError for a dtype that no weight of these models has.
    """
    text, skipped = _text_tensors(tensors)
    entries: dict[str, TensorEntry] = {}
    for name in text:
        entry = _entry(name, text, scheme)
        if entry is None:
            continue
        if entry.name in entries:
            raise CheckpointError(f"{entry.name} is stored both packed and unpacked: the checkpoint is ambiguous")
        entries[entry.name] = entry
    return entries, skipped


def _text_tensors(tensors: dict[str, ShardTensor]) -> tuple[dict[str, ShardTensor], int]:
    text: dict[str, ShardTensor] = {}
    skipped = 0
    for disk_name, tensor in tensors.items():
        if disk_name.startswith(_VISION_PREFIXES):
            skipped += 1
            continue
        name = disk_name.removeprefix(_TEXT_PREFIX)
        if name in text:
            raise CheckpointError(f"{name} is stored with and without the prefix {_TEXT_PREFIX}")
        if not name.endswith(_IGNORED_SUFFIX):
            text[name] = tensor
    return text, skipped


def _entry(name: str, text: dict[str, ShardTensor], scheme: WeightScheme) -> TensorEntry | None:
    """The entry that `name` begins, or None when it is a companion of another tensor."""
    for suffix, owner_suffix in _COMPANIONS.items():
        if name.endswith(suffix):
            _part(text, name.removesuffix(suffix) + owner_suffix, needed_by=name)
            return None
    if name.endswith(".weight_packed"):
        return _int4_entry(name, text, scheme)
    if text[name].stored.dtype == _FP8_DTYPE:
        return _fp8_entry(name, text, scheme)
    return _plain_entry(name, text)


def _plain_entry(name: str, text: dict[str, ShardTensor]) -> TensorEntry:
    stored = text[name].stored
    if stored.dtype not in _PLAIN:
        raise UnsupportedError(f"{name} has dtype {stored.dtype}, but weights are read only as {', '.join(_PLAIN)}")
    if f"{name}_scale_inv" in text:
        raise CheckpointError(f"{name} is {stored.dtype}, but has block factors as if it were FP8")
    return TensorEntry(name, stored.shape, _PLAIN[stored.dtype], text[name])


def _fp8_entry(name: str, text: dict[str, ShardTensor], scheme: WeightScheme) -> TensorEntry:
    _check_scheme(name, "FP8", scheme == "fp8")
    scales = _part(text, f"{name}_scale_inv", needed_by=name)
    rows, cols = _matrix(name, text[name])
    _check_scales(scales, scale_shape(rows, cols), f"{name} [{rows}, {cols}]")
    return TensorEntry(name, (rows, cols), "FP8", text[name], scales)


def _int4_entry(name: str, text: dict[str, ShardTensor], scheme: WeightScheme) -> TensorEntry:
    _check_scheme(name, "INT4", scheme == "int4")
    module = name.removesuffix(".weight_packed")
    scales = _part(text, f"{module}.weight_scale", needed_by=name)
    if text[name].stored.dtype != "I32":
        raise CheckpointError(f"{name} has dtype {text[name].stored.dtype}, but packed weights are I32")
    rows, words = _matrix(name, text[name])
    cols = words * WORD_NIBBLES
    if cols % GROUP:
        raise CheckpointError(f"{name} packs {cols} columns, which groups of {GROUP} do not divide")
    _check_scales(scales, (rows, cols // GROUP), f"{name} [{rows}, {words}]")
    return TensorEntry(f"{module}.weight", (rows, cols), "INT4", text[name], scales)


def _check_scheme(name: str, storage: Storage, declared: bool) -> None:
    if not declared:
        raise CheckpointError(
            f"{name} is stored as {storage}, but config.json does not declare that: it belongs to another model"
        )


def _part(text: dict[str, ShardTensor], name: str, *, needed_by: str) -> ShardTensor:
    if name not in text:
        raise CheckpointError(f"{needed_by} is there, but {name} is missing: download the checkpoint again")
    return text[name]


def _matrix(name: str, tensor: ShardTensor) -> tuple[int, int]:
    if len(tensor.stored.shape) != 2:
        raise CheckpointError(f"{name} has shape {list(tensor.stored.shape)}, but must be a matrix")
    rows, cols = tensor.stored.shape
    return rows, cols


def _check_scales(scales: ShardTensor, wanted: tuple[int, int], owner: str) -> None:
    stored = scales.stored
    if stored.dtype not in _PLAIN:
        raise CheckpointError(f"{stored.name} has dtype {stored.dtype}, but scales are one of {', '.join(_PLAIN)}")
    if stored.shape != wanted:
        raise CheckpointError(
            f"{stored.name} has shape {list(stored.shape)}, but {owner} needs {list(wanted)}: the parts do not "
            "belong together"
        )
