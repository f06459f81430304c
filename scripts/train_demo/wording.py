"""How people really type: case, punctuation, politeness and typing errors."""

import random

_OPENINGS = ("hey, ", "Hi, ", "so, ", "ok, ", "please, ", "Hello! ", "hm, ", "and ", "k2lite, ", "Sorry, ", "Well, ")
_ENDINGS = (" please", " thanks", ", please", " pls", " exactly")
_NEIGHBOURS = dict(
    zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopqsdfghjklaxcvbnmz", strict=True),
)


def reword(text: str, rng: random.Random) -> str:
    """`text` as somebody might type it. About a third comes back unchanged."""
    if rng.random() < 0.35:
        return text
    if rng.random() < 0.15:
        text = rng.choice(_OPENINGS) + text[0].lower() + text[1:]
    if rng.random() < 0.35:
        text = text.rstrip("?.!")
    if rng.random() < 0.07:
        text = text.rstrip("?.!") + rng.choice(_ENDINGS) + rng.choice(("", "?", "."))
    if rng.random() < 0.35:
        text = text.lower()
    elif rng.random() < 0.03:
        text = text.upper()
    if rng.random() < 0.25:
        text = misspell(text, rng)
    if rng.random() < 0.1 and len(text) > 12:
        text = misspell(text, rng)
    return text


def misspell(text: str, rng: random.Random) -> str:
    """One typing error at a letter: swapped, left out, doubled or the key beside it."""
    places = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not places or len(text) < 6:
        return text
    i = rng.choice(places)
    a, b = text[i], text[i + 1]
    wrong = rng.choice((b + a, b, a + a + b, _NEIGHBOURS.get(a.lower(), a) + b))
    return text[:i] + wrong + text[i + 2 :]
