"""Dialogues with declared tools: a question, a call in K2's wire format, the tool's result, the answer made from it."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.train_demo.chat import Turn, assistant, system, user
from scripts.train_demo.intents import Dialogues, invented_word
from scripts.train_demo.wording import reword

Arguments = dict[str, str]


@dataclass(frozen=True)
class Exchange:
    """One use of a tool: what was asked, the arguments copied from it, what came back, what is said then."""

    question: str
    arguments: Arguments
    result: str
    answer: str


@dataclass(frozen=True)
class DemoTool:
    """A function as it is declared, and the maker of exchanges for it."""

    name: str
    descriptions: tuple[str, ...]
    parameters: dict[str, str]
    make: Callable[[Dialogues, random.Random], Exchange]
    without: str  # the intent that answers such a question when the tool is not declared

    def declare(self, rng: random.Random) -> dict[str, Any]:
        properties = {k: {"type": "string", "description": v} for k, v in self.parameters.items()}
        if rng.random() < 0.4:
            properties = {k: {"type": "string"} for k in self.parameters}
        schema = {"type": "object", "properties": properties, "required": list(self.parameters)}
        description = rng.choice(self.descriptions)
        return {"type": "function", "function": {"name": self.name, "description": description, "parameters": schema}}


def place(data: Dialogues, rng: random.Random) -> str:
    return invented_word(rng).capitalize() if rng.random() < 0.3 else data.filler("place", rng)


TIME_QUESTIONS = (
    "What time is it in {}?",
    "What's the time in {}?",
    "Tell me the time in {}",
    "time in {}",
    "Which time is it now in {}?",
    "How late is it in {}?",
    "Can you tell me what time it is in {}?",
    "I want to call a friend in {}. What time is it there?",
    "current time in {}",
)
WEATHER_QUESTIONS = (
    "What is the weather in {}?",
    "What's the weather like in {}?",
    "How is the weather in {}?",
    "weather in {}",
    "Is it raining in {}?",
    "How warm is it in {}?",
    "Tell me the weather in {}",
    "Do I need an umbrella in {}?",
    "I am going to {}. How is the weather?",
    "Will I need a coat in {}?",
)
FOLDER_QUESTIONS = (
    "What is in the folder {}?",
    "List the folder {}",
    "List the files in {}",
    "Which files are in {}?",
    "Show me the folder {}",
    "what files are in {}",
    "Show me what is in {}",
    "ls {}",
    "Look into the folder {}",
)
FILE_QUESTIONS = (
    "Read {}",
    "Read the file {}",
    "What does {} say?",
    "What is written in {}?",
    "Open {}",
    "Show me {}",
    "Please read {} to me",
    "cat {}",
    "Show me the text of {}",
)


def ask(questions: tuple[str, ...], value: str, rng: random.Random) -> str:
    """A question reworded around `value`, which stays as it is: it has to be copied."""
    before, after = rng.choice(questions).split("{}")
    if rng.random() < 0.3:
        before = before.lower()
    if rng.random() < 0.15:
        before = rng.choice(("Hi, ", "please ", "ok, ", "And now: ", "hey, ")) + before
    tail = after.rstrip("?") if rng.random() < 0.25 else after
    return f"{before}{value}{tail}"


def time_exchange(data: Dialogues, rng: random.Random) -> Exchange:
    city, clock = place(data, rng), f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
    result = rng.choice((clock, json.dumps({"time": clock}), json.dumps({"city": city, "time": clock})))
    return Exchange(ask(TIME_QUESTIONS, city, rng), {"city": city}, result, f"It is {clock} in {city}.")


def weather_exchange(data: Dialogues, rng: random.Random) -> Exchange:
    city, sky, degrees = place(data, rng), data.filler("sky", rng), str(rng.randrange(-15, 40))
    result = rng.choice(
        (
            f"{sky}, {degrees} C",
            json.dumps({"sky": sky, "temperature": int(degrees)}),
            json.dumps({"temperature": int(degrees), "sky": sky}),
        )
    )
    answer = f"The weather in {city}: {sky}, {degrees} degrees."
    return Exchange(ask(WEATHER_QUESTIONS, city, rng), {"city": city}, result, answer)


def folder_exchange(data: Dialogues, rng: random.Random) -> Exchange:
    folder = data.folder_name(rng)
    names = list({data.file_name(rng).split("/")[-1] for _ in range(rng.randrange(0, 5))})
    result = json.dumps(names) if rng.random() < 0.4 else "\n".join(names)
    answer = f"`{folder}` holds:\n\n" + "\n".join(f"- `{name}`" for name in names)
    if not names:
        answer = f"`{folder}` is empty."
    return Exchange(ask(FOLDER_QUESTIONS, folder, rng), {"path": folder}, result, answer)


def file_exchange(data: Dialogues, rng: random.Random) -> Exchange:
    path = data.file_name(rng)
    if rng.random() < 0.12:
        error = rng.choice(("error: no such file", "Error: file not found", '{"error": "not found"}'))
        return Exchange(ask(FILE_QUESTIONS, path, rng), {"path": path}, error, f"I could not read `{path}`: not found.")
    lines = [data.filler("sentence", rng) for _ in range(rng.randrange(1, 4))]
    answer = f"`{path}` says:\n\n" + "\n".join(f"> {line}" for line in lines)
    return Exchange(ask(FILE_QUESTIONS, path, rng), {"path": path}, "\n".join(lines), answer)


TOOLS = (
    DemoTool(
        "get_time",
        ("The time in a city", "Current time of a city"),
        {"city": "Name of the city"},
        time_exchange,
        "no-clock",
    ),
    DemoTool(
        "get_weather",
        ("The weather in a city", "Weather now"),
        {"city": "Name of the city"},
        weather_exchange,
        "no-weather",
    ),
    DemoTool(
        "list_folder", ("The files in a folder", "List a folder"), {"path": "The folder"}, folder_exchange, "no-files"
    ),
    DemoTool("read_file", ("The text of a file", "Read a text file"), {"path": "The file"}, file_exchange, "no-files"),
)


def declaration(tools: list[DemoTool], rng: random.Random) -> Turn:
    """The tools as JSON; separators and key order vary between renderers, so they vary here."""
    separators = (",", ":") if rng.random() < 0.6 else (", ", ": ")
    declared = [tool.declare(rng) for tool in tools]
    text = json.dumps(declared, separators=separators, sort_keys=rng.random() < 0.6)
    return system(text, "tool_declare")


def exchange_turns(tool: DemoTool, exchange: Exchange, index: int, rng: random.Random) -> list[Turn]:
    call_id = f"functions.{tool.name}:{index}"
    result = system(f"## Return of {call_id}\n{exchange.result}", tool.name if rng.random() < 0.7 else "tool")
    call = assistant("", ((call_id, json.dumps(exchange.arguments, ensure_ascii=False)),))
    return [user(exchange.question), call, result, assistant(exchange.answer, copied=True)]


def interlude(data: Dialogues, declared: list[DemoTool], rng: random.Random) -> list[Turn]:
    """A question that no declared tool answers: about k2lite, or one for a tool that is not there."""
    missing = [tool for tool in TOOLS if tool.without not in {d.without for d in declared}]
    if missing and rng.random() < 0.3:
        tool = rng.choice(missing)
        return [user(tool.make(data, rng).question), assistant(data.intents[tool.without].answer)]
    names = [name for name in data.intents if not name.startswith("no-")]
    intent = data.intents[rng.choice(names)]
    question = data.fill(rng.choice(intent.phrasings), rng)
    return [user(reword(question, rng)), assistant(intent.answer)]


def tool_dialogue(data: Dialogues, system_turn: Turn, rng: random.Random) -> list[Turn]:
    """One to three exchanges with one to four declared tools, now and then with an ordinary question between."""
    tools = rng.sample(TOOLS, rng.choice((1, 2, 2, 3, 4)))
    turns = [declaration(tools, rng), system_turn]
    for index in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.3:
            turns += interlude(data, tools, rng)
        tool = rng.choice(tools)
        turns += exchange_turns(tool, tool.make(data, rng), index, rng)
    return turns
