"""How a checkpoint says that its weights are quantized, and whether that is a way we read."""

from collections.abc import Callable
from typing import Any, Literal

from quant.checkpoint.fp8 import BLOCK
from quant.checkpoint.int4 import GROUP
from quant.errors import CheckpointError, UnsupportedError

WeightScheme = Literal["none", "fp8", "int4"]
Fields = dict[str, Any]

_FIELD = "quantization_config"


def weight_scheme(config: Fields) -> WeightScheme:
    """The scheme that config.json declares, at its top level or in `text_config`.

    Raises UnsupportedError naming the field and value of anything but FP8 in blocks of 128x128 and symmetric INT4
    in groups of 32, CheckpointError when the two places contradict each other.
    """
    text = config.get("text_config")
    declared = [place[_FIELD] for place in (config, text) if isinstance(place, dict) and place.get(_FIELD)]
    if not declared:
        return "none"
    if any(other != declared[0] for other in declared):
        raise CheckpointError(f"config.json declares two different {_FIELD}s: repair it")
    fields = _object(declared[0], _FIELD)
    method = fields.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        raise _unsupported(f"{_FIELD}.quant_method", method, " or ".join(_METHODS))
    return _METHODS[method](fields)


def _check_fp8(fields: Fields) -> WeightScheme:
    _require(fields, "fmt", "e4m3", _FIELD, default="e4m3")
    _require(fields, "weight_block_size", [BLOCK, BLOCK], _FIELD)
    return "fp8"


def _check_int4(fields: Fields) -> WeightScheme:
    _require(fields, "format", "pack-quantized", _FIELD)
    groups = _object(fields.get("config_groups"), f"{_FIELD}.config_groups")
    for name, group in groups.items():
        place = f"{_FIELD}.config_groups.{name}"
        weights = _object(_object(group, place).get("weights"), f"{place}.weights")
        _require(weights, "num_bits", 4, f"{place}.weights")
        _require(weights, "type", "int", f"{place}.weights")
        _require(weights, "strategy", "group", f"{place}.weights")
        _require(weights, "group_size", GROUP, f"{place}.weights")
        _require(weights, "symmetric", True, f"{place}.weights")
        _require(weights, "actorder", None, f"{place}.weights")
    return "int4"


_METHODS: dict[str, Callable[[Fields], WeightScheme]] = {"fp8": _check_fp8, "compressed-tensors": _check_int4}


def _object(value: Any, place: str) -> Fields:
    if not isinstance(value, dict) or not value:
        raise _unsupported(place, value, "an object with fields")
    return value


def _require(fields: Fields, name: str, wanted: Any, place: str, default: Any = None) -> None:
    value = fields.get(name, default)
    if value != wanted:
        raise _unsupported(f"{place}.{name}", value, repr(wanted))


def _unsupported(place: str, value: Any, wanted: str) -> UnsupportedError:
    return UnsupportedError(f"config.json: {place} is {value!r}, but k2lite reads only {wanted}")
