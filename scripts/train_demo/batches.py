"""Batches of token rows made from endless conversations."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.train_demo.chat import Encoded, Turn, as_text, encode_conversation
from scripts.train_demo.compose import Composer, copying_drill, system_turn
from scripts.train_demo.tool_dialogues import tool_dialogue
from scripts.train_demo.vocabulary import DemoTokenizer

LONGEST = 4000  # positions a conversation is spread over


@dataclass(frozen=True)
class Batch:
    """`ids` and `positions` [B, T]; `weights` [B, T - 1] for predicting ids[:, 1:]."""

    ids: Tensor
    positions: Tensor
    weights: Tensor


@dataclass(frozen=True)
class RowKind:
    """A shape of batch: how many rows of how many tokens, and how the rows are made."""

    rows: int
    tokens: int
    max_turns: int
    tool_share: float
    plain_share: float
    drill_share: float


SHORT = RowKind(rows=52, tokens=120, max_turns=1, tool_share=0.0, plain_share=0.03, drill_share=0.25)
LONG = RowKind(rows=16, tokens=400, max_turns=8, tool_share=0.7, plain_share=0.03, drill_share=0.0)


def batches(composer: Composer, tokenizer: DemoTokenizer, seed: int, skip: int = 0) -> Iterator[Batch]:
    """Endless; batch n depends on `seed` and n alone, so that a resumed run goes on where it stopped."""
    number = skip
    while True:
        rng = random.Random(f"{seed}/{number}")
        kind = SHORT if number % 2 else LONG
        rows = [make_row(kind, composer, tokenizer, rng) for _ in range(kind.rows)]
        yield collate(rows, kind, tokenizer.special["[PAD]"], rng)
        number += 1


def make_row(kind: RowKind, composer: Composer, tokenizer: DemoTokenizer, rng: random.Random) -> Encoded:
    if rng.random() < kind.plain_share:
        text = as_text(composer.conversation(kind.max_turns, rng)[1:])
        ids = tokenizer.encode(text)
        return Encoded(ids, [1.0] * len(ids), [0])
    if rng.random() < kind.drill_share:
        turns = copying_drill(composer.data, kind.tokens, rng)
    elif rng.random() < kind.tool_share:
        turns = tool_dialogue(composer.data, system_turn(rng), rng)
    else:
        turns = composer.conversation(kind.max_turns, rng)
    return fit(turns, kind.tokens, tokenizer)


def fit(turns: list[Turn], tokens: int, tokenizer: DemoTokenizer) -> Encoded:
    """As many whole turns as fit; what is cut off is never half an answer, unless the first alone is too long."""
    out = encode_conversation(turns, tokenizer)
    ends = [start for start in out.starts[1:] if start <= tokens]
    if len(out.ids) > tokens:
        cut = ends[-1] if len(ends) > 2 else tokens
        out = Encoded(out.ids[:cut], out.weights[:cut], [s for s in out.starts if s < cut])
    return out


def collate(rows: list[Encoded], kind: RowKind, pad: int, rng: random.Random) -> Batch:
    length = min(kind.tokens, max(len(row.ids) for row in rows))
    ids = torch.full((len(rows), length), pad)
    weights = torch.zeros(len(rows), length)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        n = min(len(row.ids), length)
        ids[i, :n] = torch.tensor(row.ids[:n])
        weights[i, :n] = torch.tensor(row.weights[:n])
        positions[i, :n] = spread(n, row.starts, rng)
    return Batch(ids, positions, weights[:, 1:])


def spread(length: int, starts: list[int], rng: random.Random) -> Tensor:
    """Positions of a row. Half of the rows jump ahead between messages: distances of long talks at no cost."""
    steps = torch.ones(length, dtype=torch.long)
    steps[0] = 0
    if rng.random() < 0.5 and len(starts) > 2:
        room = rng.randrange(0, LONGEST - length)
        for start in rng.sample(starts[1:], min(3, len(starts) - 1)):
            if start < length:
                jump = rng.randrange(0, room + 1)
                steps[start] += jump
                room -= jump
    return steps.cumsum(0)
