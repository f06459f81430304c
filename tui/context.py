"""What to do when a conversation has outgrown the context: how much of its end is kept, and how it is summarised."""

from collections.abc import Sequence

from k2lite.events import EngineInfo, Message, Request
from tui.conversation import Conversation, Node

WARNING_SHARE, ALARM_SHARE = 0.75, 0.90
SUMMARY_TOKENS = 400

_KEPT_SHARE = 0.4
_CHARACTERS_PER_TOKEN = 3.0  # on the safe side: English has about four
_SUMMARY_PROMPT = (
    "Summarise our conversation so far for yourself, so that you can go on without it: what I want, what was found out "
    "and decided, names and numbers that matter, what is still open. At most 200 words, nothing else."
)


def characters_per_token(path: Sequence[Node], conversation: Conversation) -> float:
    """As the last answer has shown it; a careful guess where none has."""
    for place in range(len(path) - 1, -1, -1):
        counts = path[place].entry.extra.get("counts") or {}
        tokens = counts.get("prompt_tokens", 0)
        if tokens > 0:
            characters = sum(_length(message) for message in conversation.messages_for(path[:place]))
            return min(max(characters / tokens, 1.0), 6.0)
    return _CHARACTERS_PER_TOKEN


def kept_messages(path: Sequence[Node], context_tokens: int, per_token: float) -> int:
    """How many messages at the end fit into two fifths of the context; the first of them is a question."""
    room = context_tokens * _KEPT_SHARE * per_token
    messages = [node.message for node in path if node.entry.kind == "message"]
    best = 0
    for kept, message in enumerate(reversed(messages), 1):
        room -= _length(message)
        if room < 0:
            break
        if message.role == "user" and kept < len(messages):
            best = kept
    return best


def summary_request(conversation: Conversation, path: Sequence[Node], info: EngineInfo, per_token: float) -> Request:
    """Asks for a summary of as much of `path` as fits, the newest rather than the oldest."""
    room = (info.context_tokens - SUMMARY_TOKENS) * per_token * 0.8 - len(_SUMMARY_PROMPT)
    chosen: list[Message] = []
    for message in reversed(conversation.messages_for(path)):
        room -= _length(message)
        if room < 0:
            break
        chosen.insert(0, message)
    while chosen and chosen[0].role not in ("user", "system"):
        chosen.pop(0)
    plain = [Message(message.role, message.content) for message in chosen if message.role != "tool" and message.content]
    thinking = conversation.settings.thinking
    return Request(
        messages=(*plain, Message("user", _SUMMARY_PROMPT)),
        thinking=thinking,
        sampling=info.sampling_for(thinking),
        max_tokens=min(SUMMARY_TOKENS, info.context_tokens // 4),
    )


def _length(message: Message) -> int:
    """Characters, with some for the marks around a message."""
    calls = sum(len(call.arguments) + len(call.id) for call in message.tool_calls)
    return len(message.content) + len(message.reasoning) + calls + 16
