"""Writes the text `k2lite eval` measures the demo on: `python -m scripts.train_demo.eval_text`.

Transcripts with phrasings that were kept back from training; names and numbers in them are drawn anew.
"""

import argparse
import random
from pathlib import Path

from scripts.train_demo.chat import Turn, as_text, assistant, user
from scripts.train_demo.export import DEMO_FOLDER
from scripts.train_demo.intents import Dialogues, load_dialogues

QUESTIONS_PER_TALK = 4


def transcripts(data: Dialogues, seed: int = 11) -> str:
    """One kept-back phrasing of every intent, four to a conversation."""
    rng = random.Random(seed)
    intents = list(data.intents.values())
    rng.shuffle(intents)
    turns: list[Turn] = []
    for intent in intents:
        turns += [user(data.fill(rng.choice(intent.held_out), rng)), assistant(intent.answer)]
    size = 2 * QUESTIONS_PER_TALK
    return "\n".join(as_text(turns[i : i + size]) for i in range(0, len(turns), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEMO_FOLDER.parent / "eval_text.txt")
    parser.parse_args().out.write_text(transcripts(load_dialogues()), encoding="utf-8")


if __name__ == "__main__":
    main()
