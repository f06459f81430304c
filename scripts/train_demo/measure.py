"""Quality: are whole answers right? With the right answer as input, greedy decoding gives it exactly when every
argmax is the next token, so one forward pass per batch decides it without generating."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.train_demo.chat import SYSTEM_PROMPT, Turn, assistant, encode_conversation, encode_prompt, system, user
from scripts.train_demo.compose import system_turn
from scripts.train_demo.intents import Dialogues
from scripts.train_demo.tool_dialogues import tool_dialogue
from scripts.train_demo.vocabulary import DemoTokenizer

Predictor = Callable[[Tensor], Tensor]  # ids [B, T] -> logits [B, T, vocab]

OPENING = 8  # tokens that tell which answer was chosen


@dataclass(frozen=True)
class Score:
    """Shares of answers that come out whole (`exact`), or begin with the right tokens (`opened`)."""

    questions: int
    exact: float
    opened: float
    loss: float

    def __str__(self) -> str:
        return f"exact {self.exact:.3f} opened {self.opened:.3f} loss {self.loss:.3f} of {self.questions}"


def phrasing_cases(data: Dialogues, held_out: bool, count: int | None, seed: int = 7) -> list[list[Turn]]:
    """One-question conversations: phrasings never trained on, or trained ones."""
    rng = random.Random(seed)
    pairs = [
        (phrasing, intent)
        for intent in data.intents.values()
        for phrasing in (intent.held_out if held_out else intent.phrasings)
    ]
    rng.shuffle(pairs)
    opening = system(SYSTEM_PROMPT)
    return [[opening, user(data.fill(asked, rng)), assistant(intent.answer)] for asked, intent in pairs[:count]]


def tool_cases(data: Dialogues, count: int, seed: int = 8) -> list[list[Turn]]:
    """Dialogues with tools whose names and values were drawn anew; the last answer is scored, and so is each call."""
    rng = random.Random(seed)
    cases: list[list[Turn]] = []
    while len(cases) < count:
        turns = tool_dialogue(data, system_turn(rng), rng)
        said = [i for i, turn in enumerate(turns) if turn.kind == "assistant"]
        cases += [turns[: i + 1] for i in said[:2]]
    return cases[:count]


@torch.no_grad()
def score(model: Predictor, tokenizer: DemoTokenizer, cases: list[list[Turn]], batch: int = 32) -> Score:
    """How many last answers of `cases` come out whole."""
    rows = []
    for turns in cases:
        rows.append((encode_conversation(turns, tokenizer).ids, len(encode_prompt(turns[:-1], tokenizer))))
    rows.sort(key=lambda row: len(row[0]))
    exact, opened, losses = 0, 0, 0.0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        ids = torch.zeros(len(part), max(len(r) for r, _ in part), dtype=torch.long)
        for i, (row, _) in enumerate(part):
            ids[i, : len(row)] = torch.tensor(row)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids)
        for i, (row, begin) in enumerate(part):
            guess, target = logits[i, begin - 1 : len(row) - 1].float(), ids[i, begin : len(row)]
            right = guess.argmax(-1) == target
            exact += int(right.all())
            opened += int(right[:OPENING].all())
            losses += float(F.cross_entropy(guess, target))
    return Score(len(cases), exact / len(cases), opened / len(cases), losses / len(cases))
