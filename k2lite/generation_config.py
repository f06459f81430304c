"""Sampling that a model's publisher states: in generation_config.json of a checkpoint, in `general.sampling.*` of GGUF.

Stated sampling is a mapping of fields of `events.Sampling`, those that are stated and no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2lite.events import Sampling
from quant.errors import CheckpointError, GgufError, RequestError
from quant.files.bounded_json import read_optional_json
from quant.gguf.gguf_writer import MetadataEntry

StatedSampling = Mapping[str, float]

_PREFIX = "general.sampling."
# A GGUF file keeps 0.3 as the nearest float32; nobody states more digits than this.
_DIGITS = 6


@dataclass(frozen=True)
class _Setting:
    """A field of Sampling with its names in generation_config.json and, behind the prefix, in GGUF."""

    field: str
    config_name: str
    gguf_name: str
    gguf_type: str = "float32"


_SETTINGS = (
    _Setting("temperature", "temperature", "temp"),
    _Setting("top_p", "top_p", "top_p"),
    _Setting("top_k", "top_k", "top_k", "int32"),
    _Setting("min_p", "min_p", "min_p"),
    _Setting("repeat_penalty", "repetition_penalty", "penalty_repeat"),
)


def read_stated_sampling(folder: Path) -> StatedSampling:
    """What the checkpoint in `folder` states. Raises CheckpointError for a value that cannot be."""
    path = folder / "generation_config.json"
    config = read_optional_json(path)
    try:
        return _checked({setting: config.get(setting.config_name) for setting in _SETTINGS})
    except RequestError as error:
        raise CheckpointError(f"{path}: {error}: correct it") from error


def stated_sampling_of(metadata: Mapping[str, Any]) -> StatedSampling:
    """What a GGUF file's `metadata` states. Raises GgufError for a value that cannot be."""
    try:
        stated = _checked({setting: metadata.get(_PREFIX + setting.gguf_name) for setting in _SETTINGS})
    except RequestError as error:
        raise GgufError(f"a key {_PREFIX}* is wrong: {error}: convert the file again") from error
    return {field: round(value, _DIGITS) for field, value in stated.items()}


def sampling_metadata(stated: StatedSampling) -> list[MetadataEntry]:
    """The keys that keep `stated` in a GGUF file; llama.cpp reads the same ones."""
    return [
        MetadataEntry(_PREFIX + setting.gguf_name, setting.gguf_type, stated[setting.field])
        for setting in _SETTINGS
        if setting.field in stated
    ]


def _checked(values: Mapping[_Setting, Any]) -> StatedSampling:
    """The values that are there, by field. Raises RequestError for one that is no number or out of range."""
    stated = {}
    for setting, value in values.items():
        if value is None:
            continue
        whole = setting.gguf_type == "int32"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise RequestError(f"{setting.config_name} is {value!r}, but must be a {'whole ' * whole}number")
        stated[setting.field] = max(value, 0) if whole else value  # a top-k of -1 means all tokens, as 0 does
    Sampling(**stated)  # refuses what is out of range
    return stated
