"""A conversation in the form that chat templates read: plain dicts in the style of OpenAI's API."""

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from k2lite.events import Message, ToolCall
from quant.errors import RequestError

PlainMessage = dict[str, Any]

ROLES: tuple[str, ...] = get_args(get_type_hints(Message)["role"])
_MODEL_ID = re.compile(r"functions\..+:\d+", re.DOTALL)


def plain_messages(messages: Sequence[Message | Mapping[str, Any]], parse_arguments: bool) -> list[PlainMessage]:
    """`messages` as dicts with text content and with tool call ids as the model writes them.

    `parse_arguments` turns the JSON text of a Message's call into an object, for templates that write JSON themselves.
    Raises RequestError for an unknown role and for anything but text.
    """
    plain = [
        _from_message(message, parse_arguments) if isinstance(message, Message) else _from_mapping(message)
        for message in messages
    ]
    _rename_calls(plain)
    return plain


def _from_message(message: Message, parse_arguments: bool) -> PlainMessage:
    plain: PlainMessage = {"role": _checked_role(message.role), "content": message.content}
    if message.reasoning:
        plain["reasoning_content"] = message.reasoning
    if message.tool_calls:
        plain["tool_calls"] = [_plain_call(call, parse_arguments) for call in message.tool_calls]
    if message.tool_call_id:
        plain["tool_call_id"] = message.tool_call_id
    if message.name:
        plain["name"] = message.name
    return plain


def _plain_call(call: ToolCall, parse_arguments: bool) -> PlainMessage:
    arguments: Any = call.arguments
    if parse_arguments:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError):
            arguments = call.arguments  # not JSON: the model shall see what it wrote
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _from_mapping(message: Mapping[str, Any]) -> PlainMessage:
    plain = dict(message)
    _checked_role(plain.get("role"))
    content = plain.get("content")
    if isinstance(content, list | tuple):
        plain["content"] = "".join(_text_part(part) for part in content)
    elif content is None:
        plain["content"] = ""
    elif not isinstance(content, str):
        raise RequestError(f"a message's content is a {type(content).__name__}: it must be text")
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_copied_call(call) for call in plain["tool_calls"]]
    return plain


def _checked_role(role: Any) -> str:
    if role not in ROLES:
        raise RequestError(f"a message has the role {role!r}: it must be one of {', '.join(ROLES)}")
    return str(role)


def _text_part(part: Any) -> str:
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise RequestError(f"a message holds a part of type {kind!r}: k2lite takes text only")
    return str(part["text"])


def _copied_call(call: Any) -> PlainMessage:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError("a tool call has no function with a name: write it as OpenAI's API does")
    return {**call, "function": dict(function)}


def _rename_calls(messages: list[PlainMessage]) -> None:
    """Give every call an id of the form functions.NAME:INDEX, in place; results follow their calls.

    Ids that the model wrote stay. Others are numbered by their place in the whole conversation, for the model
    imitates what it sees: after `search:0` or `call_x` its own calls go wrong.
    """
    new_ids: dict[str, str] = {}
    unanswered: deque[str] = deque()
    number = 0
    for message in messages:
        for call in message.get("tool_calls") or ():
            old = str(call.get("id") or "")
            call["id"] = old if _MODEL_ID.fullmatch(old) else f"functions.{call['function']['name']}:{number}"
            new_ids[old] = call["id"]
            unanswered.append(call["id"])
            number += 1
        if message["role"] == "tool":
            old = str(message.get("tool_call_id") or "")
            answered = new_ids.get(old, old) if old else (unanswered[0] if unanswered else "")
            if answered:
                message["tool_call_id"] = answered
            if answered in unanswered:
                unanswered.remove(answered)
