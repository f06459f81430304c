"""A made-up vocabulary of any size, in the files in which a family keeps its own.

Tokens are the 256 bytes, then pairs and triples of printable characters, so that whatever a random model says can be
shown on any screen.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from k2lite.synth.chat import deepseek_template, kimi_template
from k2lite.synth.shapes import Config, has_kimi_tokens, text_config
from k2lite.vocabulary.byte_alphabet import printable_from_bytes
from k2lite.vocabulary.kimi import RESERVED, added_tokens, marker_ids, markers, ranked_lines
from k2lite.vocabulary.split_rules import split_rule
from k2lite.vocabulary.vocabulary import TURN_END
from quant.errors import CheckpointError, UnsupportedError

_BYTES = 256
# Frequent ones first: they get the lower ranks, which are joined first.
_LETTERS = b" etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ0123456789.,-'\"()/:;!?_=<>+*[]{}#$%&@\\^`|~"
MAX_BASE_TOKENS = _BYTES + len(_LETTERS) ** 2 + len(_LETTERS) ** 3

_DEEPSEEK_BOS, _DEEPSEEK_EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
_DEEPSEEK_OTHERS = ("<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>")

# What is taken from the folder of a real tokenizer, as far as it is there.
_COPIED = ("tiktoken.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def tokenizer_files(config: Config, *, thinks: bool) -> dict[str, bytes]:
    """The files of a vocabulary that fits `config`, by name. Raises UnsupportedError for a size that cannot be."""
    if has_kimi_tokens(config):
        return _kimi_files(int(text_config(config)["vocab_size"]), thinks)
    return _deepseek_files(text_config(config))


def copied_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The files of the tokenizer in `folder`. Raises CheckpointError when they cannot be read."""
    try:
        return {name: (folder / name).read_bytes() for name in _COPIED if (folder / name).is_file()}
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error


def base_tokens(count: int) -> list[bytes]:
    """`count` distinct tokens: every byte, then pairs, then triples, whose halves are tokens before them."""
    by_rank = sorted(product(range(len(_LETTERS)), repeat=2), key=sum)
    pairs = (bytes((_LETTERS[first], _LETTERS[second])) for first, second in by_rank)
    triples = (bytes(letters) for letters in product(_LETTERS, repeat=3))
    return list(islice(chain((bytes([byte]) for byte in range(_BYTES)), pairs, triples), count))


def _kimi_files(vocab: int, thinks: bool) -> dict[str, bytes]:
    base = _checked_base(vocab, RESERVED)
    settings = {
        "added_tokens_decoder": added_tokens(base, markers(thinks=thinks)),
        "bos_token": "[BOS]",
        "clean_up_tokenization_spaces": False,
        "eos_token": "[EOS]",
        "pad_token": "[PAD]",
        "tokenizer_class": "TikTokenTokenizer",
        "unk_token": "[UNK]",
    }
    return {
        "tiktoken.model": ranked_lines(base_tokens(base)).encode(),
        "tokenizer_config.json": _json(settings),
        "chat_template.jinja": kimi_template(thinks).encode(),
        "generation_config.json": _json({"eos_token_id": marker_ids(base)[TURN_END]}),
    }


def _deepseek_files(text: Config) -> dict[str, bytes]:
    vocab = int(text["vocab_size"])
    specials = _deepseek_specials(text, vocab)
    base = iter(_printable(base_tokens(_checked_base(vocab, len(specials)))))
    ids = {specials[token] if token in specials else next(base): token for token in range(vocab)}
    merges = [(word[:-1], word[-1]) for word in ids if word not in specials.values() and len(word) > 1]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges))
    rule = "deepseek-llm" if text.get("model_type") == "deepseek_v2" else "deepseek-v3"
    tokenizer.pre_tokenizer = split_rule(rule).pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in specials.values()])
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": _DEEPSEEK_BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": _DEEPSEEK_EOS,
        "pad_token": _DEEPSEEK_OTHERS[0],
        "tokenizer_class": "LlamaTokenizerFast",
    }
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": _json(settings),
        "chat_template.jinja": deepseek_template(_DEEPSEEK_BOS, _DEEPSEEK_EOS, *_DEEPSEEK_OTHERS[1:]).encode(),
        "generation_config.json": _json({"eos_token_id": text["eos_token_id"]}),
    }


def _deepseek_specials(text: Config, vocab: int) -> dict[int, str]:
    """Special tokens by id: where config.json has them, the others at the end."""
    specials: dict[int, str] = {}
    for name, word in (("bos_token_id", _DEEPSEEK_BOS), ("eos_token_id", _DEEPSEEK_EOS)):
        token = text.get(name)
        if not isinstance(token, int) or not 0 <= token < vocab or token in specials:
            raise UnsupportedError(
                f"config.json: {name} is {token!r}, which is no id of its own below vocab_size {vocab}: correct it"
            )
        specials[token] = word
    free = (token for token in range(vocab - 1, -1, -1) if token not in specials)
    return specials | dict(zip(free, _DEEPSEEK_OTHERS, strict=False))


def _checked_base(vocab: int, specials: int) -> int:
    """How many tokens are not special."""
    least, most = _BYTES + specials, MAX_BASE_TOKENS + specials
    if not least <= vocab <= most:
        raise UnsupportedError(
            f"a vocabulary of {vocab:,} tokens cannot be made up: choose {least:,} (bytes and special tokens) to "
            f"{most:,}"
        )
    return vocab - specials


def _printable(tokens: list[bytes]) -> Iterator[str]:
    return map(printable_from_bytes, tokens)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
