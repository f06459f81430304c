"""A tiny tokenizer in Kimi's on-disk format: tiktoken.model and tokenizer_config.json.

The vocabulary is 256 single bytes, MERGES tokens learned by byte-pair encoding from a few sentences, and the
256 reserved ids. These keep their real order: `[BOS]` is `BASE + 0` where the real one is 163584 + 0.
"""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from k2lite.vocabulary.kimi import RESERVED, added_tokens, marker_ids, markers, ranked_lines

MERGES = 128
BASE = 256 + MERGES
VOCAB_SIZE = BASE + RESERVED

_TEXT = (
    "the quick brown fox jumps over the lazy dog and the other dogs are not amused by the way in which the "
    "fox was jumping over them again and again while the user is asking what is the weather in this city and "
    "the assistant is thinking about another answer that would be better than the first one 你好 世界 "
    "你好 世界 there is nothing more to be said here so the reader may stop reading at the end of it "
)


def special_id(text: str) -> int:
    """Id of a named reserved token, as in special_id("<|im_end|>")."""
    return marker_ids(BASE)[text]


def _single_bytes() -> list[bytes]:
    # Printable bytes come first, as in the published file.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [bytes([b]) for b in printable + [b for b in range(256) if b not in printable]]


def _learn_merges(count: int) -> list[bytes]:
    words = [[bytes([b]) for b in word.encode()] for word in re.findall(r" ?\S+", _TEXT)]
    learned: list[bytes] = []
    while len(learned) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        (left, right), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        learned.append(left + right)
        words = [_merged(word, left, right) for word in words]
    return learned


def _merged(word: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    out: list[bytes] = []
    for piece in word:
        if out and out[-1] == left and piece == right:
            out[-1] = left + right
        else:
            out.append(piece)
    return out


def write_tokenizer(folder: Path, *, thinking_names: bool) -> None:
    """Write tiktoken.model and tokenizer_config.json; `thinking_names` adds <think> and the media markers."""
    tokens = _single_bytes() + _learn_merges(MERGES)
    (folder / "tiktoken.model").write_text(ranked_lines(tokens))
    names = markers(thinks=thinking_names)
    config = {
        "added_tokens_decoder": added_tokens(BASE, names),
        "additional_special_tokens": [text for text, special in names.values() if special and text[0] == "<"],
        "bos_token": "[BOS]",
        "clean_up_tokenization_spaces": False,
        "eos_token": "[EOS]",
        "pad_token": "[PAD]",
        "tokenizer_class": "TikTokenTokenizer",
        "unk_token": "[UNK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False))
