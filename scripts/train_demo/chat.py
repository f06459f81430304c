"""Conversations and their wire format: Kimi K2's markers around plain text, with who said which token."""

from dataclasses import dataclass, field

from scripts.train_demo.vocabulary import DemoTokenizer

SYSTEM_PROMPT = "You are the k2lite demo, a tiny model that answers questions about k2lite and Kimi K2."


@dataclass(frozen=True)
class Turn:
    """One message. `kind` is user, assistant or system (also for tools); `calls` are (id, JSON arguments)."""

    kind: str
    name: str
    text: str
    calls: tuple[tuple[str, str], ...] = ()
    copied: bool = False  # made of what was said before: weighs more in the loss


def user(text: str) -> Turn:
    return Turn("user", "user", text)


def assistant(text: str, calls: tuple[tuple[str, str], ...] = (), copied: bool = False) -> Turn:
    return Turn("assistant", "assistant", text, calls, copied)


def system(text: str, name: str = "system") -> Turn:
    return Turn("system", name, text)


# Shares of the loss. The first tokens of an answer decide which answer it becomes, and what is copied into a call
# cannot be guessed, so these count most; the rest of an answer is easy.
PROMPT_WEIGHT, SPOKEN_WEIGHT, OPENING_WEIGHT, CALL_WEIGHT = 0.1, 1.0, 4.0, 3.0
OPENING_TOKENS = 5


@dataclass
class Encoded:
    """Token ids, the weight of each in the loss, and where messages begin."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, ids: list[int], weight: float) -> None:
        self.ids += ids
        self.weights += [weight] * len(ids)


def encode_turn(turn: Turn, tokenizer: DemoTokenizer, out: Encoded) -> None:
    """Append `<|im_KIND|>NAME<|im_middle|>TEXT calls<|im_end|>`; markers are ids, text never becomes one."""
    mark, text = tokenizer.special, tokenizer.encode
    out.starts.append(len(out.ids))
    out.add([mark[f"<|im_{turn.kind}|>"], *text(turn.name), mark["<|im_middle|>"]], PROMPT_WEIGHT)
    spoken = turn.kind == "assistant"
    said = text(turn.text)
    out.add(said[:OPENING_TOKENS], OPENING_WEIGHT if spoken else PROMPT_WEIGHT)
    rest = CALL_WEIGHT if turn.copied else SPOKEN_WEIGHT
    out.add(said[OPENING_TOKENS:], rest if spoken else PROMPT_WEIGHT)
    if turn.calls:
        out.add([mark["<|tool_calls_section_begin|>"]], CALL_WEIGHT)
        for call_id, arguments in turn.calls:
            out.add([mark["<|tool_call_begin|>"], *text(call_id)], CALL_WEIGHT)
            out.add([mark["<|tool_call_argument_begin|>"], *text(arguments), mark["<|tool_call_end|>"]], CALL_WEIGHT)
        out.add([mark["<|tool_calls_section_end|>"]], SPOKEN_WEIGHT)
    out.add([mark["<|im_end|>"]], SPOKEN_WEIGHT if spoken else PROMPT_WEIGHT)


def encode_conversation(turns: list[Turn], tokenizer: DemoTokenizer) -> Encoded:
    out = Encoded()
    for turn in turns:
        encode_turn(turn, tokenizer, out)
    return out


def encode_prompt(turns: list[Turn], tokenizer: DemoTokenizer) -> list[int]:
    """The conversation so far and the opening of the assistant's answer."""
    out = encode_conversation(turns, tokenizer)
    mark = tokenizer.special
    return [*out.ids, mark["<|im_assistant|>"], *tokenizer.encode("assistant"), mark["<|im_middle|>"]]


def as_text(turns: list[Turn]) -> str:
    """The conversation without markers, for training the vocabulary and for plain-text perplexity."""
    lines = []
    for turn in turns:
        calls = "".join(f" {call_id} {arguments}" for call_id, arguments in turn.calls)
        lines.append(f"{turn.name}: {turn.text}{calls}")
    return "\n".join(lines) + "\n"
