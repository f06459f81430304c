"""From a request to the ids the model reads, and to the parser that reads its answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from k2lite.events import Channel, Request, ToolCall
from k2lite.output_parser import OutputParser
from quant.errors import RequestError

if TYPE_CHECKING:
    from k2lite.load import LoadedModel
    from k2lite.tokenizer import Tokenizer


class AnswerParser(Protocol):
    """Turns generated ids into text by channel, and collects the whole."""

    @property
    def text(self) -> str: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def tool_calls(self) -> Iterable[ToolCall]: ...
    def push(self, token: int) -> list[tuple[Channel, str]]: ...
    def finish(self) -> list[tuple[Channel, str]]: ...


@dataclass(frozen=True)
class Prompt:
    """What is fed to the model, and who reads what comes back."""

    ids: list[int]
    parser: AnswerParser


class PlainText:
    """The parser of a raw prompt's answer: everything is the answer, markers included."""

    reasoning = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._decoder = tokenizer.decoder()
        self.text = ""

    def push(self, token: int) -> list[tuple[Channel, str]]:
        return self._take(self._decoder.push(token))

    def finish(self) -> list[tuple[Channel, str]]:
        return self._take(self._decoder.flush())

    def _take(self, text: str) -> list[tuple[Channel, str]]:
        self.text += text
        return [("answer", text)] if text else []


def render_prompt(request: Request, loaded: "LoadedModel") -> Prompt:
    """The ids of `request`. Raises RequestError for a request that contradicts itself or is empty."""
    _check(request)
    if request.raw_prompt is not None:
        return encode_raw(request.raw_prompt, loaded.tokenizer)
    return _render_chat(request, loaded)


def encode_raw(text: str, tokenizer: "Tokenizer") -> Prompt:
    """Markers in `text` are meant; a family that starts every text with a token of its own gets it here too."""
    ids = tokenizer.encode_marked(text)
    if tokenizer.adds_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids.insert(0, tokenizer.bos_id)
    if not ids:
        raise RequestError("the prompt is empty: give it at least one character")
    return Prompt(ids, PlainText(tokenizer))


def _render_chat(request: Request, loaded: "LoadedModel") -> Prompt:
    rendered = loaded.chat_format.render(request.messages, request.tools, request.thinking)
    return Prompt(list(rendered.ids), OutputParser(loaded.tokenizer, rendered.starts_thinking))


def _check(request: Request) -> None:
    if request.raw_prompt is not None:
        refused = [name for name in ("messages", "tools") if getattr(request, name)]
        refused += ["thinking"] if request.thinking is not None else []
        if refused:
            raise RequestError(f"a raw prompt bypasses the chat template: it cannot be combined with {refused[0]}")
    elif not request.messages:
        raise RequestError("the request has neither messages nor a raw prompt")
