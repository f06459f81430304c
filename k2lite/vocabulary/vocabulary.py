"""A vocabulary: the text of every token id and what is needed to encode with it. Readers of three formats build it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import models

from k2lite.vocabulary.split_rules import split_rule

STOP_TEXTS = ("<|im_end|>", "[EOS]", "[EOT]")
TURN_END = "<|im_end|>"
THINK_BEGIN = "<think>"
THINK_END = "</think>"
SECTION_BEGIN = "<|tool_calls_section_begin|>"
SECTION_END = "<|tool_calls_section_end|>"
CALL_BEGIN = "<|tool_call_begin|>"
ARGUMENTS_BEGIN = "<|tool_call_argument_begin|>"
CALL_END = "<|tool_call_end|>"
# Control tokens that carry structure for a reader; the others are dropped when control text is not wanted.
STRUCTURE_TEXTS = frozenset({THINK_BEGIN, THINK_END, SECTION_BEGIN, SECTION_END, CALL_BEGIN, ARGUMENTS_BEGIN, CALL_END})

Merge = tuple[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """Texts by id, the control tokens among them, and how to encode.

    `texts` of ordinary tokens are in the printable byte alphabet, those of `special` and `unused` ids are plain.
    `hidden` are the special ids that a reader is not shown. `split_rule` is the GGUF name of the splitting, None when
    GGUF has none. `make_merges` and `make_encoder` are called at most once, when first needed (up to 3 s); the encoder
    knows no control tokens.
    """

    texts: Sequence[str]
    special: Mapping[str, int]
    hidden: frozenset[int]
    unused: frozenset[int]
    split_rule: str | None
    make_merges: Callable[[], list[Merge]]
    make_encoder: Callable[[list[Merge]], tokenizers.Tokenizer]
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    adds_bos: bool = False
    stop_ids: frozenset[int] = frozenset()
    chat_template: str | None = None


def rule_encoder(texts: Sequence[str], left_out: set[int], rule_name: str, merges: list[Merge]) -> tokenizers.Tokenizer:
    """An encoder for byte-level BPE under one of the known split rules, without the ids in `left_out`.

    Raises UnsupportedError for an unknown rule and ValueError when merges name tokens that do not exist.
    """
    rule = split_rule(rule_name)
    ids = {text: token for token, text in enumerate(texts) if token not in left_out}
    try:
        encoder = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=rule.whole_words))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(str(error)) from error
    encoder.pre_tokenizer = rule.pre_tokenizer()
    return encoder


def stop_ids(special: Mapping[str, int], *more: int | None) -> frozenset[int]:
    """The ids that end an answer: the known texts, as far as they are control tokens here, and `more`."""
    return frozenset({special[text] for text in STOP_TEXTS if text in special} | {i for i in more if i is not None})
