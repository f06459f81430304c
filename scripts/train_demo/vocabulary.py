"""The demo's own vocabulary: byte-pair encoding with K2's split pattern as tiktoken ranks, then K2's markers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from k2lite.vocabulary.kimi import RESERVED, added_tokens, marker_ids, markers, ranked_lines

MARKERS = markers(thinks=True)
_LETTER = r"\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
SPLIT_PATTERN = "|".join(
    (
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{_LETTER}]*[\p{{Ll}}{_LETTER}]+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{_LETTER}]+[\p{{Ll}}{_LETTER}]*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def _pre_tokenizer() -> Any:
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-pair encoding with `size` tokens; the 256 bytes come first, so the id of a token is its rank."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, special_tokens=[])
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class DemoTokenizer:
    """Text to ids and back, and the ids of the markers behind the text tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.base = tokenizer.get_vocab_size()
        self.vocab_size = self.base + RESERVED
        self.special = marker_ids(self.base)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; a marker comes out by its name."""
        names = {id_: name for name, id_ in self.special.items()}
        out, plain = "", list[int]()
        for id_ in ids:
            if id_ < self.base:
                plain.append(id_)
                continue
            out += self._tokenizer.decode(plain) + names.get(id_, f"<|reserved_token_{id_}|>")
            plain = []
        return out + self._tokenizer.decode(plain)

    def save(self, path: Path) -> None:
        self._tokenizer.save(str(path))

    @classmethod
    def load(cls, path: Path) -> "DemoTokenizer":
        return cls(Tokenizer.from_file(str(path)))

    def tiktoken_lines(self) -> str:
        """`base64(bytes) rank` lines."""
        byte_of = printable_bytes()
        ranks = self._tokenizer.get_vocab()
        return ranked_lines(bytes(byte_of[c] for c in token) for token in sorted(ranks, key=ranks.__getitem__))

    def config(self) -> dict[str, Any]:
        """tokenizer_config.json in the shape of K2's, with this vocabulary's ids."""
        named = ("[BOS]", "[EOS]", "[UNK]", "[PAD]")
        hidden = [name for name, special in MARKERS.values() if special and name not in named]
        return {
            "added_tokens_decoder": added_tokens(self.base, MARKERS),
            "additional_special_tokens": hidden,
            "bos_token": "[BOS]",
            "eos_token": "[EOS]",
            "unk_token": "[UNK]",
            "pad_token": "[PAD]",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
            "tokenizer_class": "TikTokenTokenizer",
        }

    def config_text(self) -> str:
        return json.dumps(self.config(), indent=2) + "\n"


def printable_bytes() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE, reversed."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in plain}
    others = [b for b in range(256) if b not in plain]
    return table | {chr(256 + i): b for i, b in enumerate(others)}
