"""Reading what the model writes, token by token: reasoning, answer and tool calls.

    <think>reasoning</think>answer<|tool_calls_section_begin|>
    <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|><|tool_calls_section_end|>

Markers are known by token id, so the same letters as text (in an argument, in an answer about chat templates) stay
text. Only markers that the vocabulary has no token for are looked for in the text. Models make mistakes with the
format that are understood all the same: calls without a section, without an end, inside unclosed reasoning.
"""

import json
import re
from collections.abc import Callable
from enum import Enum, auto

from k2lite.events import Channel, ToolCall
from k2lite.tokenizer import Tokenizer
from k2lite.vocabulary.vocabulary import (
    ARGUMENTS_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    STRUCTURE_TEXTS,
    THINK_BEGIN,
    THINK_END,
)

Piece = tuple[Channel, str]

# A spelling that models fall into. It is no token, so it always comes as text.
_SINGULAR = {"<|tool_call_section_begin|>": SECTION_BEGIN, "<|tool_call_section_end|>": SECTION_END}
_CALL_NAME = re.compile(r"(?:functions\.)?(.+?):\d+", re.DOTALL)


class _State(Enum):
    THINK = auto()
    ANSWER = auto()
    SECTION = auto()  # among calls, outside of any
    CALL_ID = auto()
    ARGUMENTS = auto()


_CHANNELS: dict[_State, Channel] = {
    _State.THINK: "think",
    _State.ANSWER: "answer",
    _State.SECTION: "answer",
    _State.CALL_ID: "tool",
    _State.ARGUMENTS: "tool",
}
_IN_CALL = (_State.CALL_ID, _State.ARGUMENTS)


class OutputParser:
    """Parses one answer. `starts_thinking`: the prompt has already opened the reasoning."""

    def __init__(self, tokenizer: Tokenizer, starts_thinking: bool) -> None:
        self._decoder = tokenizer.decoder()
        self._stop_ids = tokenizer.stop_ids
        self._by_id = {tokenizer.special[text]: text for text in STRUCTURE_TEXTS if text in tokenizer.special}
        self._by_text = _text_markers(frozenset(self._by_id.values()), starts_thinking)
        self._marker_pattern = re.compile("|".join(map(re.escape, self._by_text)))
        self._state = _State.THINK if starts_thinking else _State.ANSWER
        self._pending = ""
        self._written: dict[Channel, list[str]] = {"think": [], "answer": [], "tool": []}
        self._call_id: list[str] = []
        self._arguments: list[str] = []
        self._calls: list[ToolCall] = []
        self._answered = False
        self._cut_off = False  # a call has ended the reasoning, whose own end may follow

    @property
    def text(self) -> str:
        """The answer so far, without reasoning and calls."""
        return "".join(self._written["answer"])

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._written["think"])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that are complete."""
        return tuple(self._calls)

    def push(self, token: int) -> list[Piece]:
        """What one more token adds: (channel, text), in order. Text that could begin a marker is held back."""
        if token in self._stop_ids:
            return self._read(self._decoder.flush(), last=True)
        marker = self._by_id.get(token)
        if marker is None:
            return self._read(self._decoder.push(token), last=False)
        pieces = self._read(self._decoder.flush(), last=True)
        return pieces + self._mark(marker, marker)

    def finish(self) -> list[Piece]:
        """What was held back. A call without an end counts when its arguments are whole; a torn one is no call."""
        pieces = self._read(self._decoder.flush(), last=True)
        if self._state is _State.ARGUMENTS and _is_json("".join(self._arguments)):
            self._close_call()
        self._state = _State.ANSWER
        return pieces

    def _read(self, text: str, last: bool) -> list[Piece]:
        """Take text in, emit what is certain; `last`: no text that continues it will follow."""
        pieces: list[Piece] = []
        self._pending += text
        while match := self._marker_pattern.search(self._pending):
            pieces += self._emit(self._pending[: match.start()])
            self._pending = self._pending[match.end() :]
            pieces += self._mark(self._by_text[match[0]], match[0])
        kept = 0 if last else self._possible_marker()
        certain = len(self._pending) - kept
        pieces += self._emit(self._pending[:certain])
        self._pending = self._pending[certain:]
        return pieces

    def _possible_marker(self) -> int:
        """Length of the longest end of the pending text that a marker begins with."""
        longest = max(map(len, self._by_text), default=1) - 1
        for size in range(min(longest, len(self._pending)), 0, -1):
            if any(marker.startswith(self._pending[-size:]) for marker in self._by_text):
                return size
        return 0

    def _emit(self, text: str) -> list[Piece]:
        if self._state is _State.SECTION:
            if not text.strip():
                return []
            self._state = _State.ANSWER
        if not text:
            return []
        if self._state is _State.CALL_ID:
            self._call_id.append(text)
        elif self._state is _State.ARGUMENTS:
            self._arguments.append(text)
        channel = _CHANNELS[self._state]
        self._written[channel].append(text)
        self._answered = self._answered or (channel == "answer" and not text.isspace())
        return [(channel, text)]

    def _mark(self, marker: str, written: str) -> list[Piece]:
        """Act on a marker; where it has no meaning it is text, as `written`."""
        quoted = self._state is _State.ARGUMENTS and written in self._by_text and CALL_END not in self._by_text
        if quoted or not _ACTIONS[marker](self):
            return self._emit(written)
        return []

    def _begin_thinking(self) -> bool:
        if self._state is _State.THINK:
            return not self.reasoning.strip()  # the prompt has opened it already
        begins = self._state is _State.ANSWER and not self._answered and not self._calls
        if begins:
            self._state = _State.THINK
        return begins

    def _end_thinking(self) -> bool:
        if self._state in _IN_CALL:
            return False
        ends = self._state is _State.THINK
        if ends:
            self._state = _State.ANSWER
        ends, self._cut_off = ends or self._cut_off, False
        return ends

    def _begin_section(self) -> bool:
        if self._state in _IN_CALL:
            return False
        self._cut_off = self._cut_off or self._state is _State.THINK
        self._state = _State.SECTION
        return True

    def _end_section(self) -> bool:
        if self._state in _IN_CALL:
            self._close_call()
        elif self._state is not _State.SECTION:
            return False
        self._state = _State.ANSWER
        return True

    def _begin_call(self) -> bool:
        if self._state in _IN_CALL:
            self._close_call()
        self._cut_off = self._cut_off or self._state is _State.THINK
        self._state = _State.CALL_ID
        return True

    def _begin_arguments(self) -> bool:
        begins = self._state is _State.CALL_ID
        if begins:
            self._state = _State.ARGUMENTS
        return begins

    def _end_call(self) -> bool:
        if self._state not in _IN_CALL:
            return False
        self._close_call()
        self._state = _State.SECTION
        return True

    def _close_call(self) -> None:
        call_id, arguments = "".join(self._call_id).strip(), "".join(self._arguments).strip()
        self._call_id, self._arguments = [], []
        if call_id:
            match = _CALL_NAME.fullmatch(call_id)
            name = match[1] if match else call_id.removeprefix("functions.")
            self._calls.append(ToolCall(call_id, name, arguments))


_ACTIONS: dict[str, Callable[[OutputParser], bool]] = {
    THINK_BEGIN: OutputParser._begin_thinking,
    THINK_END: OutputParser._end_thinking,
    SECTION_BEGIN: OutputParser._begin_section,
    SECTION_END: OutputParser._end_section,
    CALL_BEGIN: OutputParser._begin_call,
    ARGUMENTS_BEGIN: OutputParser._begin_arguments,
    CALL_END: OutputParser._end_call,
}


def _text_markers(with_tokens: frozenset[str], starts_thinking: bool) -> dict[str, str]:
    """Spelling -> marker of those that are looked for in text.

    A vocabulary that has tokens for calls but none for thinking (the first Kimi K2) belongs to a model that does not
    think: there `<think>` is text, unless the prompt itself has opened the reasoning.
    """
    markers = {marker: marker for marker in STRUCTURE_TEXTS - with_tokens} | _SINGULAR
    if CALL_BEGIN in with_tokens and not starts_thinking:
        markers.pop(THINK_BEGIN, None)
        markers.pop(THINK_END, None)
    return markers


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
