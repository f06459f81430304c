"""A vocabulary in GGUF metadata: reading the `tokenizer.*` keys of a file, and writing them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from k2lite.vocabulary.byte_alphabet import bytes_from_printable
from k2lite.vocabulary.split_rules import split_rule
from k2lite.vocabulary.tiktoken import RULE as KIMI_RULE
from k2lite.vocabulary.tiktoken import printable_merges
from k2lite.vocabulary.vocabulary import STRUCTURE_TEXTS, TURN_END, Merge, Vocabulary, rule_encoder, stop_ids
from quant.errors import GgufError, UnsupportedError
from quant.gguf.number_array import NumberArray

_PREFIX = "tokenizer.ggml."
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

MetadataItem = tuple[str, str, Any]


def read_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a file. Raises UnsupportedError for other models and unknown splittings, GgufError."""
    model, rule = metadata.get(_PREFIX + "model"), metadata.get(_PREFIX + "pre")
    if model != "gpt2":
        raise UnsupportedError(f"tokenizer.ggml.model is {model!r}: k2lite reads byte-level BPE ('gpt2') only")
    split_rule(str(rule))
    texts = _list(metadata, "tokens", str)
    kinds = _list(metadata, "token_type", int, len(texts), _NORMAL)
    special = {
        text: token
        for token, (text, kind) in enumerate(zip(texts, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED) or (text in STRUCTURE_TEXTS and kind != _UNUSED)
    }
    unused = frozenset(token for token, kind in enumerate(kinds) if kind == _UNUSED)
    left_out = {*special.values(), *unused}
    merges = _list(metadata, "merges", str)
    eos_id, eot_id = _id(metadata, "eos", len(texts)), _id(metadata, "eot", len(texts))
    template = metadata.get("tokenizer.chat_template")
    return Vocabulary(
        texts=texts,
        special=special,
        hidden=frozenset(token for text, token in special.items() if text not in STRUCTURE_TEXTS),
        unused=unused,
        split_rule=str(rule),
        make_merges=partial(_read_merges, merges, texts, left_out, str(rule)),
        make_encoder=partial(_encoder, texts, left_out, str(rule)),
        bos_id=_id(metadata, "bos", len(texts)),
        eos_id=eos_id,
        pad_id=_id(metadata, "padding", len(texts)),
        adds_bos=metadata.get(_PREFIX + "add_bos_token") is True,
        stop_ids=stop_ids(special, eos_id, eot_id),
        chat_template=template if isinstance(template, str) else None,
    )


def write_gguf(vocabulary: Vocabulary, merges: Sequence[Merge], vocab_size: int | None = None) -> list[MetadataItem]:
    """The keys of `vocabulary` as (key, GGUF type, value), filled up with unused tokens to `vocab_size`.

    Every control token is written as such, never as user defined: llama.cpp finds the latter in any user's text.
    Raises UnsupportedError when GGUF has no name for the splitting, or `vocab_size` is too small.
    """
    size = len(vocabulary.texts) if vocab_size is None else vocab_size
    if size < len(vocabulary.texts):
        raise UnsupportedError(
            f"the tokenizer has {len(vocabulary.texts)} tokens, but the model's vocab_size is {size}: "
            "they are of different models"
        )
    if vocabulary.split_rule is None:
        raise UnsupportedError("the pre_tokenizer in tokenizer.json is none that GGUF has a name for")
    padding = range(len(vocabulary.texts), size)
    texts = [*vocabulary.texts, *(f"[PAD{token}]" for token in padding)]
    kinds = [_NORMAL] * len(texts)
    for token in vocabulary.special.values():
        kinds[token] = _CONTROL
    for token in (*vocabulary.unused, *padding):
        kinds[token] = _UNUSED
    return [
        (_PREFIX + "model", "string", "gpt2"),
        (_PREFIX + "pre", "string", vocabulary.split_rule),
        (_PREFIX + "tokens", "array[string]", texts),
        (_PREFIX + "token_type", "array[int32]", kinds),
        (_PREFIX + "merges", "array[string]", [f"{left} {right}" for left, right in merges]),
        *_id_items(vocabulary),
        (_PREFIX + "add_bos_token", "bool", vocabulary.adds_bos),
        *([("tokenizer.chat_template", "string", vocabulary.chat_template)] if vocabulary.chat_template else []),
    ]


def _id_items(vocabulary: Vocabulary) -> list[MetadataItem]:
    ids = {
        "bos": vocabulary.bos_id,
        "eos": vocabulary.eos_id,
        "eot": vocabulary.special.get(TURN_END),  # llama.cpp would guess between it and [EOT]
        "padding": vocabulary.pad_id,
    }
    return [(f"{_PREFIX}{name}_token_id", "uint32", token) for name, token in ids.items() if token is not None]


def _list(
    metadata: Mapping[str, Any], name: str, kind: type, length: int | None = None, filler: Any = None
) -> list[Any]:
    """An array of the vocabulary, checked. Absent: `length` times `filler`, or [] without a length."""
    values = metadata.get(_PREFIX + name)
    if values is None:
        return [filler] * (length or 0)
    if not isinstance(values, list | NumberArray) or not all(isinstance(value, kind) for value in values):
        raise GgufError(f"{_PREFIX}{name} is not a list of {kind.__name__}: the file is damaged, download it again")
    if length is not None and len(values) != length:
        raise GgufError(f"{_PREFIX}{name} has {len(values)} entries for {length} tokens: download the file again")
    return list(values)


def _id(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    key = f"{_PREFIX}{name}_token_id"
    token = metadata.get(key)
    if token is None:
        return None
    if not isinstance(token, int) or not 0 <= token < size:
        raise GgufError(f"{key} is {token!r}, but the file has {size} tokens: download it again")
    return token


def _read_merges(lines: list[str], texts: list[str], left_out: set[int], rule: str) -> list[Merge]:
    """Merges as written; those of a Kimi file without any follow from its ranks."""
    if not lines and rule == KIMI_RULE:
        return printable_merges([bytes_from_printable(text) for i, text in enumerate(texts) if i not in left_out])
    merges = [(left, right) for left, space, right in (line.partition(" ") for line in lines) if space]
    if len(merges) != len(lines):
        raise GgufError(f"{_PREFIX}merges has entries that are not two tokens: the file is damaged, download it again")
    return merges


def _encoder(texts: list[str], left_out: set[int], rule: str, merges: list[Merge]) -> Any:
    try:
        return rule_encoder(texts, left_out, rule, merges)
    except ValueError as error:
        raise GgufError(f"{_PREFIX}merges does not fit the tokens ({error}): download the file again") from error
