"""Reads the dialogue files: intents with their phrasings and answers, and lists of slot fillers."""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

DIALOGUES = Path(__file__).parent / "dialogues"
INTENT_FILES = ("k2lite", "model", "hardware", "smalltalk", "unknown", "no-tools")


@dataclass
class Intent:
    """One thing that users ask, in many phrasings, and its answer. `next` names intents that fit as the next turn."""

    name: str
    answer: str = ""
    phrasings: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dialogues:
    intents: dict[str, Intent]
    slots: dict[str, list[str]]

    def fill(self, phrasing: str, rng: random.Random) -> str:
        """Replace each {slot} by one of its fillers; `number`, `year`, `file` and `folder` are made up."""
        return re.sub(r"\{(\w+)\}", lambda m: self.filler(m.group(1), rng), phrasing)

    def filler(self, slot: str, rng: random.Random) -> str:
        if slot == "number":
            return str(rng.randrange(2, 1000))
        if slot == "year":
            return str(rng.randrange(1900, 2026))
        if slot == "file":
            return self.file_name(rng)
        if slot == "folder":
            return self.folder_name(rng)
        return rng.choice(self.slots[slot])

    def file_name(self, rng: random.Random) -> str:
        stem = self.slots["stem"]
        name = rng.choice(stem) if rng.random() < 0.6 else f"{rng.choice(stem)}{rng.choice('_-')}{rng.choice(stem)}"
        if rng.random() < 0.15:
            name = invented_word(rng)
        if rng.random() < 0.2:
            name += str(rng.randrange(1, 100))
        folder = f"{rng.choice(stem)}/" if rng.random() < 0.2 else ""
        return f"{folder}{name}.{rng.choice(self.slots['extension'])}"

    def folder_name(self, rng: random.Random) -> str:
        parts = [rng.choice(self.slots["stem"]) if rng.random() < 0.8 else invented_word(rng)]
        while rng.random() < 0.3 and len(parts) < 3:
            parts.append(rng.choice(self.slots["stem"]))
        return rng.choice(("", "", "./", "/", "~/")) + "/".join(parts)


def invented_word(rng: random.Random) -> str:
    """A pronounceable word that no list holds, so that copying has to be learnt instead of the words."""
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randrange(2, 5)))


def load_dialogues(folder: Path = DIALOGUES) -> Dialogues:
    """All intents with their templates expanded. Raises ValueError for a phrasing that two intents claim."""
    templates = {i.name: i for i in parse_intents(folder / "templates.txt", {})}
    slots = {i.name: i.phrasings for i in parse_intents(folder / "slots.txt", {})}
    intents = {i.name: i for name in INTENT_FILES for i in parse_intents(folder / f"{name}.txt", templates)}
    check_unique(intents.values())
    return Dialogues(intents, slots)


def parse_intents(path: Path, templates: dict[str, Intent]) -> Iterator[Intent]:
    """The format of `dialogues/README.md`."""
    for block in re.split(r"^@ ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        name, *lines = block.split("\n")
        intent = Intent(name.strip())
        answer: list[str] = []
        for line in lines:
            mark, text = line[:2], line[2:].strip()
            if mark == "% ":
                expand(intent, text, templates)
            elif mark in ("? ", "~ ", "+ "):
                {"? ": intent.phrasings, "~ ": intent.held_out, "+ ": intent.next}[mark].append(text)
            else:
                answer.append(line)
        intent.answer = "\n".join(answer).strip()
        yield intent


def expand(intent: Intent, text: str, templates: dict[str, Intent]) -> None:
    """`concept: a | b`: every template of the list with every name."""
    kind, _, names = text.partition(":")
    for raw in names.split("|"):
        name = raw.strip()
        for source, target in (("phrasings", intent.phrasings), ("held_out", intent.held_out)):
            for template in getattr(templates[kind], source):
                sentence = template.replace("{}", name)
                target.append(sentence[0].upper() + sentence[1:] if template[0].isupper() else sentence)


def check_unique(intents: Iterable[Intent]) -> None:
    """Raises ValueError when two intents have the same phrasing."""
    owner: dict[str, str] = {}
    for intent in intents:
        for phrasing in {p.lower().strip("?.! ") for p in intent.phrasings + intent.held_out}:
            if owner.setdefault(phrasing, intent.name) != intent.name:
                raise ValueError(f"{phrasing!r} belongs to {owner[phrasing]} and to {intent.name}: keep it in one")
