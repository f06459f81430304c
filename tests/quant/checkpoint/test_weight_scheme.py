"""What config.json may say about quantization, and what is refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from quant.checkpoint.weight_scheme import weight_scheme
from quant.errors import CheckpointError, UnsupportedError
from tests.quant.raw_safetensors import FP8_CONFIG, INT4_CONFIG


def _changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `config` where the field at the dotted `path` is `value`."""
    changed = copy.deepcopy(config)
    *parents, last = path.split(".")
    place = changed["quantization_config"]
    for parent in parents:
        place = place[parent]
    place[last] = value
    return changed


def test_the_three_schemes() -> None:
    assert weight_scheme({"hidden_size": 64}) == "none"
    assert weight_scheme({"quantization_config": None}) == "none"
    assert weight_scheme(FP8_CONFIG) == "fp8"
    assert weight_scheme(INT4_CONFIG) == "int4"


def test_a_scheme_inside_text_config_counts() -> None:
    assert weight_scheme({"text_config": INT4_CONFIG}) == "int4"
    assert weight_scheme({"text_config": INT4_CONFIG, **INT4_CONFIG}) == "int4"
    with pytest.raises(CheckpointError, match="two different"):
        weight_scheme({"text_config": INT4_CONFIG, **FP8_CONFIG})


@pytest.mark.parametrize(
    ("config", "path", "value", "place"),
    [
        (FP8_CONFIG, "quant_method", "gptq", "quant_method is 'gptq'"),
        (FP8_CONFIG, "quant_method", ["fp8"], r"quant_method is \['fp8'\]"),
        (FP8_CONFIG, "fmt", "e5m2", "fmt is 'e5m2'"),
        (FP8_CONFIG, "weight_block_size", [64, 128], r"weight_block_size is \[64, 128\]"),
        (FP8_CONFIG, "weight_block_size", None, "weight_block_size is None"),
        (INT4_CONFIG, "format", "float-quantized", "format is 'float-quantized'"),
        (INT4_CONFIG, "config_groups", {}, "config_groups is {}"),
        (INT4_CONFIG, "config_groups.group_0", None, "group_0 is None"),
        (INT4_CONFIG, "config_groups.group_0.weights", None, "weights is None"),
        (INT4_CONFIG, "config_groups.group_0.weights.num_bits", 8, "num_bits is 8"),
        (INT4_CONFIG, "config_groups.group_0.weights.type", "float", "type is 'float'"),
        (INT4_CONFIG, "config_groups.group_0.weights.strategy", "channel", "strategy is 'channel'"),
        (INT4_CONFIG, "config_groups.group_0.weights.group_size", 128, "group_size is 128"),
        (INT4_CONFIG, "config_groups.group_0.weights.symmetric", False, "symmetric is False"),
        (INT4_CONFIG, "config_groups.group_0.weights.actorder", "group", "actorder is 'group'"),
    ],
)
def test_anything_else_is_refused_by_field_and_value(config: dict[str, Any], path: str, value: Any, place: str) -> None:
    with pytest.raises(UnsupportedError, match=place):
        weight_scheme(_changed(config, path, value))


def test_the_declaration_may_not_be_a_list() -> None:
    with pytest.raises(UnsupportedError, match="quantization_config is"):
        weight_scheme({"quantization_config": ["fp8"]})


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("kimi-k2-instruct", "fp8"),
        ("kimi-k2-instruct-0905", "fp8"),
        ("kimi-k2-thinking", "int4"),
        ("kimi-k2.5", "int4"),
        ("moonlight-16b-a3b", "none"),
        ("deepseek-v3", "fp8"),
        ("deepseek-v2-lite", "none"),
    ],
)
def test_the_configurations_of_the_real_models(shared_data: Path, name: str, scheme: str) -> None:
    config = json.loads((shared_data / "kimi" / "configs" / f"{name}.json").read_text())
    assert weight_scheme(config) == scheme
