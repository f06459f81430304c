"""Reading `tiktoken.model`: one line per token, its bytes in base64 and its rank, which is its id.

256 reserved ids follow the listed tokens. tokenizer_config.json names some of them, the others are
`<|reserved_token_ID|>`.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from k2lite.vocabulary.bpe import merges_from_ranks
from k2lite.vocabulary.byte_alphabet import printable_from_bytes
from k2lite.vocabulary.kimi import RESERVED
from k2lite.vocabulary.vocabulary import STRUCTURE_TEXTS, Merge, Vocabulary, rule_encoder
from quant.errors import CheckpointError

RULE = "kimi-k2"


def read_tiktoken(path: Path, named: Mapping[int, tuple[str, bool]]) -> Vocabulary:
    """The vocabulary in `path`; `named` is id -> (text, special) of reserved ids. Raises CheckpointError.

    What the file does not say (bos, eos, template) is left at its default.
    """
    tokens = _read_tokens(path)
    base = len(tokens)
    special, hidden = _reserved(base, named)
    texts = [printable_from_bytes(token) for token in tokens]
    texts += sorted(special, key=special.__getitem__)
    return Vocabulary(
        texts=texts,
        special=special,
        hidden=hidden,
        unused=frozenset(),
        split_rule=RULE,
        make_merges=partial(printable_merges, tokens),
        make_encoder=partial(rule_encoder, texts, set(special.values()), RULE),
    )


def printable_merges(tokens: Sequence[bytes]) -> list[Merge]:
    """Merges of tokens in rank order, in the printable alphabet."""
    return [(printable_from_bytes(left), printable_from_bytes(right)) for left, right in merges_from_ranks(tokens)]


def _read_tokens(path: Path) -> list[bytes]:
    """Tokens by rank. Every rank from 0 on occurs once, every byte is a token, no token occurs twice."""
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            tokens[int(rank)] = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(f"{path} line {number} is not 'base64 rank' ({error}): copy it again") from error
    ordered = [tokens[rank] for rank in range(len(tokens)) if rank in tokens]
    missing_bytes = 256 - len({token for token in ordered if len(token) == 1})
    if len(ordered) != len(tokens) or len(set(ordered)) != len(ordered) or b"" in ordered or missing_bytes:
        raise CheckpointError(
            f"{path} does not number {len(tokens)} distinct tokens from 0 on with all 256 bytes among them "
            f"({missing_bytes} bytes are missing): copy it again"
        )
    return ordered


def _reserved(base: int, named: Mapping[int, tuple[str, bool]]) -> tuple[dict[str, int], frozenset[int]]:
    """Texts of the reserved ids, and the ids among them that a reader is not shown."""
    outside = [token for token in named if not base <= token < base + RESERVED]
    if outside:
        raise CheckpointError(
            f"tokenizer_config.json names token {outside[0]}, but the reserved ids are {base} to "
            f"{base + RESERVED - 1}: it belongs to another tiktoken.model"
        )
    ids = range(base, base + RESERVED)
    special = {named[token][0] if token in named else f"<|reserved_token_{token}|>": token for token in ids}
    if len(special) != RESERVED or "" in special:
        raise CheckpointError("tokenizer_config.json names two tokens alike, or one not at all: copy it again")
    shown = {token for token, (_, hide) in named.items() if not hide}
    shown |= {special[text] for text in STRUCTURE_TEXTS if text in special}
    return special, frozenset(ids) - shown
