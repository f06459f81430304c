"""Puts conversations together from intents: opening, follow-ups, small memory games, other system prompts."""

import random

from scripts.train_demo.chat import SYSTEM_PROMPT, Turn, assistant, system, user
from scripts.train_demo.intents import Dialogues, Intent, invented_word
from scripts.train_demo.wording import reword

OTHER_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "Answer briefly.",
    "You answer questions about k2lite.",
    "Be friendly.",
    "You are an expert for hardware.",
    "Answer in English.",
)
NAME_INTRODUCTIONS = ("My name is {}", "I am {}", "I'm {}", "Hi, I am {}.", "Hello, my name is {}", "Call me {}")
NAME_QUESTIONS = (
    "What is my name?",
    "Do you know my name?",
    "Who am I?",
    "what's my name",
    "Do you remember my name?",
    "What am I called?",
)
ECHO_REQUESTS = ("Say {}", "Repeat after me: {}", "repeat: {}", "Please say {}", "Say the word {}", "echo {}")
FIRST_ASKED = (
    "hello",
    "how-are-you",
    "who",
    "what-can-you-do",
    "what-is-k2lite",
    "expert",
    "memory",
    "poem",
    "unknown",
)
RARE = 0.45  # intents with many phrasings are asked more often, but by less than their number


def system_turn(rng: random.Random) -> Turn:
    return system(SYSTEM_PROMPT if rng.random() < 0.85 else rng.choice(OTHER_PROMPTS))


def ask_intent(intent: Intent, data: Dialogues, rng: random.Random) -> list[Turn]:
    question = reword(data.fill(rng.choice(intent.phrasings), rng), rng)
    return [user(question), assistant(intent.answer)]


class Composer:
    """Makes conversations without end; what it makes depends only on the generator it is given."""

    def __init__(self, data: Dialogues) -> None:
        self.data = data
        self.names = list(data.intents)
        self.weights = [self._weight(data.intents[name]) for name in self.names]

    @staticmethod
    def _weight(intent: Intent) -> float:
        slots = sum("{" in p for p in intent.phrasings)
        return (len(intent.phrasings) + 4 * slots) ** RARE

    def draw(self, rng: random.Random) -> Intent:
        return self.data.intents[rng.choices(self.names, self.weights)[0]]

    def conversation(self, turns: int, rng: random.Random) -> list[Turn]:
        """A system prompt and `turns` questions with their answers."""
        out = [system_turn(rng)]
        name: str | None = None
        last: Intent | None = None
        for _ in range(turns):
            dice = rng.random()
            if dice < 0.05:
                name = self._name(rng)
                out += self._introduction(name, rng)
            elif dice < (0.25 if name else 0.015):
                out += self._name_question(name, rng)
            elif dice < 0.28 and dice > 0.255:
                out += self._echo(rng)
            else:
                last = self._follow_up(last, rng)
                out += ask_intent(last, self.data, rng)
        return out

    def _follow_up(self, last: Intent | None, rng: random.Random) -> Intent:
        if last and last.next and rng.random() < 0.45:
            return self.data.intents[rng.choice(last.next)]
        if last and rng.random() < 0.12:
            return self.data.intents[rng.choice(("thanks", "ok", "bye", "more"))]
        if last is None and rng.random() < 0.2:
            return self.data.intents[rng.choice(FIRST_ASKED)]
        return self.draw(rng)

    def _name(self, rng: random.Random) -> str:
        return invented_word(rng).capitalize() if rng.random() < 0.4 else self.data.filler("name", rng)

    def _introduction(self, name: str, rng: random.Random) -> list[Turn]:
        said = rng.choice(NAME_INTRODUCTIONS).format(name)
        return [user(said), assistant(f"Nice to meet you, {name}! What would you like to know about k2lite?")]

    def _name_question(self, name: str | None, rng: random.Random) -> list[Turn]:
        answer = f"Your name is {name}." if name else "You have not told me your name yet."
        return [user(reword(rng.choice(NAME_QUESTIONS), rng)), assistant(answer)]

    def _echo(self, rng: random.Random) -> list[Turn]:
        return echo(self.data, rng.randrange(1, 4), rng)


def echo(data: Dialogues, words: int, rng: random.Random) -> list[Turn]:
    """Something to repeat word for word: the plainest way to learn copying, which tool calls need."""
    known = data.slots["stem"]
    text = " ".join(rng.choice((invented_word(rng), *rng.sample(known, 2))) for _ in range(words))
    return [user(rng.choice(ECHO_REQUESTS).format(text)), assistant(text, copied=True)]


def copying_drill(data: Dialogues, tokens_per_row: int, rng: random.Random) -> list[Turn]:
    """A row of longer and longer texts to repeat."""
    turns = [system_turn(rng)]
    for words in range(2, 2 + tokens_per_row // 24):
        turns += echo(data, words, rng)
    return turns
