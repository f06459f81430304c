"""config.json and the small files of an NF4 folder: the source's, with bitsandbytes' quantization_config."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quant.errors import CheckpointError
from quant.files.paths import is_file

_FIELD = "quantization_config"
_REPLACED = ("config.json", "model.safetensors.index.json")
# What describes a model beside its weights: tokenizer, templates, generation settings, code and licence.
_PATTERNS = ("*.json", "*.model", "*.jinja", "*.py", "merges.txt", "vocab.txt", "LICENSE*")
# The largest is a tokenizer.json; that of DeepSeek-V3 takes 8 MB.
_MAX_FILE_BYTES = 64 * 1024 * 1024
_MAX_FILES = 100


def nf4_config(source: Mapping[str, Any], double_quant: bool) -> dict[str, Any]:
    """The config.json of the text model in `source`, which declares its matrices as NF4.

    K2.5 and later keep that model in `text_config`: it becomes a model of its own, of the kind it is built as.
    """
    text = source.get("text_config")
    config = dict(text) if isinstance(text, Mapping) else dict(source)
    if text is not None:
        # Ids that the inner configuration may leave to the outer one.
        config = {key: source[key] for key in _TOKEN_IDS if key in source} | config
        config["architectures"] = ["DeepseekV3ForCausalLM"]
    if config.get("num_nextn_predict_layers"):
        config["num_nextn_predict_layers"] = 0  # they are left out
    config[_FIELD] = quantization_config(double_quant)
    return config


_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def quantization_config(double_quant: bool) -> dict[str, Any]:
    """What transformers writes for such a model. The head and the routers are not quantized."""
    return {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double_quant,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": ["lm_head", "mlp.gate"],
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }


def config_bytes(config: Mapping[str, Any]) -> bytes:
    """The text of config.json."""
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def companion_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the small files that go along as they are, in the order of their names; empty ones do not.

    Raises CheckpointError when one cannot be read or is too large, or there are too many.
    """
    names = sorted({path.name for pattern in _PATTERNS for path in folder.glob(pattern)} - set(_REPLACED))
    if len(names) > _MAX_FILES:
        raise CheckpointError(f"{folder} holds {len(names)} small files where a checkpoint has some ten: remove some")
    for name in names:
        if is_file(folder / name):
            content = _content(folder / name)
            if content:
                yield name, content


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}: check who may read it") from error
    if len(content) > _MAX_FILE_BYTES:
        raise CheckpointError(
            f"{path} takes more than {_MAX_FILE_BYTES} bytes, but is to be copied beside the weights: remove it if it "
            "does not belong to the checkpoint"
        )
    return content
