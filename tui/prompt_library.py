"""Prompts to begin with: things people like to try with K2, and ways to have it behave."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LibraryPrompt:
    """`system` ones are put in as system prompt, the others into the box. `text` may have a gap to be filled, "…"."""

    name: str
    text: str
    system: bool = False


LIBRARY = (
    LibraryPrompt(
        "A play: three who cannot stop",
        "Write a short play for the stage, about fifteen minutes long. Sisyphus, Icarus and Narcissus meet "
        "again today, in an ordinary place of your choice: none of them says outright who he is, and nobody "
        "explains the myths. Each still does, in today's shape, what he is known for. Keep it understated: "
        "small talk, silences, objects that do the telling, one laugh that hurts. Every line should be "
        "sayable. No narrator, no moral at the end; let the last image do the work. Begin with the list of "
        "characters and the set in three sentences.",
    ),
    LibraryPrompt(
        "A page: particles that change their shape",
        "Write one self-contained HTML file that shows a cloud of 20,000 particles with three.js (from a CDN, "
        "as an ES module). The cloud morphs without a jump between a sphere, a torus knot, a galaxy with two "
        "spiral arms and a word that I can type; a click or the space bar goes to the next shape. Positions "
        "are computed once per shape and blended in the vertex shader with an easing of your choice, each "
        "particle a little later than the one before. Colours follow the radius, particles have soft edges, "
        "the camera can be dragged and otherwise drifts. It must hold 60 frames a second on a laptop, resize "
        "with the window, and free what it no longer needs. Give the whole file in one code block, then five "
        "lines on how it works.",
    ),
    LibraryPrompt(
        "Explain a file",
        "Explain what this file does, from its purpose down to the parts that are not obvious: @…",
    ),
    LibraryPrompt(
        "Review a change",
        "Review this change as a colleague who has to maintain it. First what it does in two sentences, then "
        "problems in order of weight, each with the line and a suggestion. Say nothing about style that a "
        "formatter would fix. @…",
    ),
    LibraryPrompt(
        "Find the bug",
        "This should … but instead it …. Think of the three likeliest causes, say for each what would show "
        "that it is that one, then look for it in the code: @…",
    ),
    LibraryPrompt(
        "Three ways",
        "I want to …. Show three ways that really differ, with what each costs and when it is the wrong one. "
        "Then say which one you would take, and what would change your mind.",
    ),
    LibraryPrompt(
        "Summarise a text",
        "Summarise this in five sentences for somebody who will not read it. Then list what it claims without "
        "support. @…",
    ),
    LibraryPrompt(
        "Translate",
        "Translate this into …, for readers who …. Keep tone and line breaks; list what has no good equivalent: …",
    ),
    LibraryPrompt(
        "Plan it",
        "Make a plan for …. Steps of at most half a day, each with what is there when it is done. Begin with "
        "the step that could prove the rest pointless.",
    ),
    LibraryPrompt(
        "Brief answers",
        "Answer briefly and plainly. Say so when you are not sure. No praise, no preamble.",
        system=True,
    ),
    LibraryPrompt(
        "A patient teacher",
        "You teach somebody clever who is new to the subject. One idea at a time, with an example before the "
        "definition. Ask a short question now and then to see whether it was understood, and wait for the "
        "answer.",
        system=True,
    ),
    LibraryPrompt(
        "A careful engineer",
        "You are a senior engineer. Before you write code, say what you take as given. Write complete code "
        "with error handling, no placeholders. Name the risks at the end, the worst one first.",
        system=True,
    ),
)


def library(own: Mapping[str, str]) -> tuple[LibraryPrompt, ...]:
    """The user's prompts from the settings file, then those written here."""
    return (*(LibraryPrompt(name, text) for name, text in own.items()), *LIBRARY)
