"""Reading `tokenizer.json`, the format of the tokenizers library (DeepSeek-V2-Lite, DeepSeek-V3)."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import tokenizers

from k2lite.vocabulary.split_rules import SPLIT_RULES
from k2lite.vocabulary.vocabulary import Merge, Vocabulary
from quant.errors import CheckpointError, UnsupportedError


def read_tokenizer_json(content: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in the parsed file. Raises UnsupportedError for anything but byte-level BPE, CheckpointError.

    What the file does not say (bos, eos, template) is left at its default.
    """
    _check_kind(content)
    try:
        added = {str(entry["content"]): (int(entry["id"]), bool(entry["special"])) for entry in content["added_tokens"]}
        ids = {str(text): int(token) for text, token in content["model"]["vocab"].items()}
        merges = [_pair(merge) for merge in content["model"]["merges"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"tokenizer.json is damaged ({error!r}): copy it again") from error
    special = {text: token for text, (token, _) in added.items()}
    texts, unused = _texts_by_id(ids, special)
    return Vocabulary(
        texts=texts,
        special=special,
        hidden=frozenset(token for token, is_special in added.values() if is_special),
        unused=unused,
        split_rule=_known_rule(content),
        make_merges=lambda: merges,
        make_encoder=partial(_encoder, content, frozenset(special)),
    )


def _check_kind(content: Mapping[str, Any]) -> None:
    model, normalizer, decoder = (content.get(key) or {} for key in ("model", "normalizer", "decoder"))
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or decoder.get("type") != "ByteLevel":
        raise UnsupportedError(
            f"tokenizer.json holds {model.get('type')} with decoder {decoder.get('type')}: "
            "k2lite reads byte-level BPE only"
        )
    if normalizer and normalizer.get("normalizers") != []:
        raise UnsupportedError(
            f"tokenizer.json has the normalizer {normalizer.get('type')}: k2lite reads tokenizers without one only"
        )


def _pair(merge: Any) -> Merge:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return str(left), str(right)


def _texts_by_id(ids: Mapping[str, int], special: Mapping[str, int]) -> tuple[list[str], frozenset[int]]:
    """One text for every id up to the highest; ids that nothing has are unused."""
    by_id = {token: text for text, token in ids.items()} | {token: text for text, token in special.items()}
    size = max(by_id, default=-1) + 1
    if size > 2 * len(by_id) or min(by_id, default=0) < 0:
        raise CheckpointError(f"tokenizer.json numbers its {len(by_id)} tokens up to {size - 1}: copy it again")
    unused = frozenset(token for token in range(size) if token not in by_id)
    return [by_id.get(token, f"[PAD{token}]") for token in range(size)], unused


def _known_rule(content: Mapping[str, Any]) -> str | None:
    """The GGUF name of the file's splitting, None when it has none that k2lite knows."""
    steps = _split_steps(content.get("pre_tokenizer"))
    for name, rule in SPLIT_RULES.items():
        digits = [("Digits", "True")] if rule.single_digits else []
        if steps == [("Split", pattern) for pattern in rule.patterns] + digits + [("ByteLevel", "False")]:
            return name
    return None


def _split_steps(pre_tokenizer: Any) -> list[tuple[str, str]]:
    """Each step's type with the setting that tells it from others of its type."""
    steps = []
    for step in (pre_tokenizer or {}).get("pretokenizers", []):
        pattern = step.get("pattern")
        regex = pattern.get("Regex", "") if isinstance(pattern, dict) else ""
        settings = {"Split": regex, "Digits": step.get("individual_digits"), "ByteLevel": step.get("use_regex")}
        steps.append((str(step.get("type")), str(settings.get(str(step.get("type")), ""))))
    return steps


def _encoder(content: Mapping[str, Any], special: frozenset[str], merges: list[Merge]) -> tokenizers.Tokenizer:
    """The library's own encoder, without the control tokens that it would find in any text."""
    model = content["model"]
    vocab = {text: token for text, token in model["vocab"].items() if text not in special}
    plain = {
        "version": content.get("version", "1.0"),
        "added_tokens": [],
        "pre_tokenizer": content.get("pre_tokenizer"),
        "model": {**model, "vocab": vocab, "merges": merges},
    }
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"tokenizer.json cannot be used ({error}): copy it again") from error
