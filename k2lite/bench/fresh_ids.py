"""Tokens that were never seen: drawn anew for every round, the same for all sides."""

import random
from pathlib import Path

from k2lite.synth.topics import TOPICS_KEY, topic_tokens
from quant.gguf.gguf_file import GgufFile

_TOKENS_ON_A_TOPIC = 64


def topics_of(path: Path) -> int:
    """How many topics a file's tokens have; 0 for one that was not made up with topics."""
    with GgufFile.open(path) as file:
        value = file.metadata.get(TOPICS_KEY, 0)
    return value if isinstance(value, int) else 0


def fresh_ids(count: int, vocab: int, topics: int, seed: int) -> list[int]:
    """`count` tokens of a vocabulary. Those of a model with topics stay with one for a while, as a text does."""
    draw = random.Random(seed)
    if not topics:
        return [draw.randrange(vocab) for _ in range(count)]
    size, ids = topic_tokens(vocab, topics), list[int]()
    while len(ids) < count:
        first = draw.randrange(topics) * size
        if first < vocab:
            last = min(first + size, vocab)
            ids += [draw.randrange(first, last) for _ in range(_TOKENS_ON_A_TOPIC)]
    return ids[:count]
