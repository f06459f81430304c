"""Reading the vocabulary of a Hugging Face folder: `tiktoken.model` (Kimi) or `tokenizer.json` (DeepSeek)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k2lite.vocabulary.json_file import read_tokenizer_json
from k2lite.vocabulary.tiktoken import read_tiktoken
from k2lite.vocabulary.vocabulary import Vocabulary, stop_ids
from quant.errors import CheckpointError
from quant.files.bounded_json import read_optional_json


def read_folder(folder: Path) -> Vocabulary:
    """The vocabulary with the folder's own settings. Raises CheckpointError, UnsupportedError."""
    settings = read_optional_json(folder / "tokenizer_config.json")
    if (folder / "tiktoken.model").is_file():
        vocabulary = read_tiktoken(folder / "tiktoken.model", _named_tokens(settings))
    elif (folder / "tokenizer.json").is_file():
        vocabulary = read_tokenizer_json(read_optional_json(folder / "tokenizer.json"))
    else:
        raise CheckpointError(
            f"no tokenizer in {folder}: it has neither tiktoken.model nor tokenizer.json, "
            "copy the one the checkpoint was published with"
        )
    return _with_settings(vocabulary, folder, settings)


def _named_tokens(settings: Mapping[str, Any]) -> dict[int, tuple[str, bool]]:
    """Id -> (text, special) from `added_tokens_decoder`."""
    entries = settings.get("added_tokens_decoder", {})
    try:
        return {int(token): (str(entry["content"]), bool(entry["special"])) for token, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"added_tokens_decoder in tokenizer_config.json is damaged ({error!r})") from error


def _with_settings(vocabulary: Vocabulary, folder: Path, settings: Mapping[str, Any]) -> Vocabulary:
    """Fill in ids and template: config.json first, which llama.cpp's converter follows too, then the tokenizer's."""
    config = read_optional_json(folder / "config.json")
    generation = read_optional_json(folder / "generation_config.json")

    def token_id(kind: str) -> int | None:
        configured = _first_id(config, f"{kind}_token_id")
        return configured if configured is not None else vocabulary.special.get(_text(settings, f"{kind}_token"))

    eos_id = token_id("eos")
    return dataclasses.replace(
        vocabulary,
        bos_id=token_id("bos"),
        eos_id=eos_id,
        pad_id=token_id("pad"),
        adds_bos=settings.get("add_bos_token") is True,
        stop_ids=stop_ids(vocabulary.special, eos_id, *_ids(config, "eos_token_id"), *_ids(generation, "eos_token_id")),
        chat_template=_chat_template(folder, settings),
    )


def _first_id(config: Mapping[str, Any], key: str) -> int | None:
    return next(iter(_ids(config, key)), None)


def _ids(config: Mapping[str, Any], key: str) -> list[int]:
    """The ids under `key`, which may be one, several, or inside `text_config` (K2.5)."""
    text_config = config.get("text_config")
    value = config.get(key)
    if value is None and isinstance(text_config, dict):
        value = text_config.get(key)
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int) and not isinstance(number, bool) and number >= 0]


def _text(settings: Mapping[str, Any], key: str) -> str:
    """A token's text, written plainly or as an object with `content`."""
    value = settings.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): copy it again") from error
    template = settings.get("chat_template")
    if isinstance(template, list):  # several templates by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
