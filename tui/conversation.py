"""What has been said so far, and what the next request is made of. Knows no screen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from k2lite.events import EngineInfo, Finished, Message, Request


@dataclass(frozen=True)
class ChatSettings:
    """What every answer of the chat is asked with. `sampling` holds the fields that differ from the model's own."""

    system: str | None = None
    thinking: bool | None = None
    max_tokens: int | None = None
    seed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


class Conversation:
    """The messages of one chat, in order. A question is part of it once it has an answer, be it a partial one."""

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._messages: list[Message] = []
        self.clear()

    def clear(self) -> None:
        """Forget what was said; the system prompt stays."""
        self._messages = [] if self._settings.system is None else [Message("system", self._settings.system)]

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that was said and answered, in order."""
        return tuple(self._messages)

    def ask(self, question: str, info: EngineInfo) -> Request:
        """The request to the engine of `info` for an answer to `question`, with all that was said before."""
        return Request(
            messages=(*self._messages, Message("user", question)),
            thinking=self._settings.thinking,
            sampling=replace(info.sampling_for(self._settings.thinking), **self._settings.sampling),
            max_tokens=self._settings.max_tokens,
            seed=self._settings.seed,
        )

    def answered(self, question: str, finished: Finished) -> None:
        """Remember the question with its answer."""
        answer = Message("assistant", finished.text, finished.reasoning, finished.tool_calls)
        self._messages += [Message("user", question), answer]
