"""Text to token ids and back.

Text that people and tools wrote goes through `encode`, which never yields a control token; `encode_marked` is for
text of which every `<|im_end|>` is meant.
"""

import codecs
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers

from k2lite.vocabulary.byte_alphabet import bytes_from_printable
from k2lite.vocabulary.control_text import ControlText
from k2lite.vocabulary.folder import read_folder
from k2lite.vocabulary.gguf import MetadataItem, read_gguf, write_gguf
from k2lite.vocabulary.vocabulary import Merge, Vocabulary


class Tokenizer:
    """A vocabulary at work. The encoder is built when it is first needed; a Kimi folder takes about 2 s for it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """The tokenizer of a checkpoint folder. Raises CheckpointError, UnsupportedError."""
        return cls(read_folder(folder))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Self:
        """The tokenizer of a GGUF file. Raises GgufError, and UnsupportedError for one k2lite does not know."""
        return cls(read_gguf(metadata))

    @property
    def vocab_size(self) -> int:
        """Number of ids; the model's embedding may have a few more rows."""
        return len(self._vocabulary.texts)

    @property
    def special(self) -> Mapping[str, int]:
        """Control tokens: text -> id."""
        return self._vocabulary.special

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return self._vocabulary.stop_ids

    @property
    def bos_id(self) -> int | None:
        """The beginning of a text."""
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int | None:
        """The end of a text. What ends an answer is in `stop_ids`."""
        return self._vocabulary.eos_id

    @property
    def adds_bos(self) -> bool:
        """Whether a prompt without a chat template starts with `bos_id` (DeepSeek)."""
        return self._vocabulary.adds_bos

    @property
    def chat_template(self) -> str | None:
        """The Jinja text that came with the model."""
        return self._vocabulary.chat_template

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; what looks like a control token is text. Lone surrogates become U+FFFD."""
        ids: list[int] = self._encoder.encode(_without_surrogates(text), add_special_tokens=False).ids
        return ids

    def encode_marked(self, text: str, breaker: str = "") -> list[int]:
        """Ids of text in which control tokens are meant, except where `breaker` interrupts them.

        `breaker` is a character put in by `ControlText.break_up`; it leaves no trace in the ids.
        """
        ids: list[int] = []
        for piece, token in self.control_text.pieces(text):
            ids += self.encode(piece.replace(breaker, "") if breaker else piece) if token is None else [token]
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD.

        `skip_special` leaves out control tokens except those that give an answer its structure (think, tool calls).
        """
        hidden = self._vocabulary.hidden if skip_special else frozenset()
        return b"".join(self.token_bytes(token) for token in ids if token not in hidden).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes one id stands for; none for an id beyond the vocabulary. Raises IndexError below 0."""
        if token < 0:
            raise IndexError(f"token id {token} is negative")
        if token >= self.vocab_size or token in self._vocabulary.unused:
            return b""
        text = self._vocabulary.texts[token]
        return text.encode() if token in self._plain_ids else bytes_from_printable(text)

    def token_text(self, token: int) -> str:
        """One id as text for display; a token may end inside a character, which then shows as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def decoder(self) -> "StreamDecoder":
        """A decoder for ids that come one by one."""
        return StreamDecoder(self)

    def gguf_metadata(self, vocab_size: int | None = None) -> list[MetadataItem]:
        """The keys of a GGUF file as (key, type, value), with unused tokens up to `vocab_size`.

        llama.cpp wants a token for every row of the embedding. Raises UnsupportedError.
        """
        return write_gguf(self._vocabulary, self._merges, vocab_size)

    @cached_property
    def control_text(self) -> ControlText:
        """Finds and disarms the texts of control tokens."""
        return ControlText(self.special)

    @cached_property
    def _plain_ids(self) -> frozenset[int]:
        return frozenset(self.special.values())

    @cached_property
    def _merges(self) -> list[Merge]:
        return self._vocabulary.make_merges()

    @cached_property
    def _encoder(self) -> tokenizers.Tokenizer:
        return self._vocabulary.make_encoder(self._merges)


class StreamDecoder:
    """Decodes ids one by one and holds back bytes that are not yet a whole character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is complete with this id."""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """What was held back, as U+FFFD; the decoder is then as new."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


def _without_surrogates(text: str) -> str:
    """`text` as valid Unicode: two surrogates of a pair become their character, a lone one U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
