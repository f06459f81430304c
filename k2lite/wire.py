"""Requests, events and errors as JSON objects, for the pipe between the screen's process and the engine's."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args

from k2lite.events import EngineInfo, Event, Message, Request, Sampling, TierReport, ToolCall
from quant.errors import EngineError, K2Error

Fields = dict[str, Any]
Answer = Event | EngineInfo | K2Error
Record = TypeVar("Record")

_ANSWERS = {kind.__name__: kind for kind in get_args(Event | EngineInfo)}


def encode(answer: Answer) -> Fields:
    """The fields of an event or error, and its class under "kind"."""
    kind = {"kind": type(answer).__name__}
    if isinstance(answer, K2Error):
        return kind | {"message": str(answer)}
    return kind | dataclasses.asdict(answer)


def decode(fields: Fields) -> Answer:
    """What `encode` was given. A kind that is not known is taken for an error, and becomes an EngineError."""
    kind = fields.pop("kind")
    if kind in _ANSWERS:
        return _record(_ANSWERS[kind], fields)
    errors = {known.__name__: known for known in _subclasses(K2Error)}
    return errors.get(kind, EngineError)(fields["message"])


def _subclasses(kind: type[K2Error]) -> Iterator[type[K2Error]]:
    for known in kind.__subclasses__():
        yield known
        yield from _subclasses(known)


def encode_request(request: Request) -> Fields:
    """The fields of a request."""
    return dataclasses.asdict(request)


def decode_request(fields: Fields) -> Request:
    """What `encode_request` was given; JSON's lists become tuples again."""
    return _record(Request, fields)


def dump_line(fields: Fields) -> str:
    """One line of ASCII: JSON's escapes leave no line break and no invalid character in it."""
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")) + "\n"


def _record(kind: Callable[..., Record], fields: Fields) -> Record:
    """A record of events.py out of its fields."""
    return kind(**{name: _RESTORE[name](value) if name in _RESTORE else value for name, value in fields.items()})


def _sampling(fields: Fields | None) -> Sampling | None:
    return None if fields is None else Sampling(**fields)


# JSON has neither records nor tuples: the fields that hold some, by the name that they have in every record.
_RESTORE: dict[str, Callable[[Any], Any]] = {
    "sampling": _sampling,
    "default_sampling": _sampling,
    "instant_sampling": _sampling,
    "messages": lambda messages: tuple(_record(Message, message) for message in messages),
    "tool_calls": lambda calls: tuple(ToolCall(**call) for call in calls),
    "tools": tuple,
    "places": tuple,
    "heat": tuple,
    "notes": tuple,
    "used": lambda layers: tuple(tuple(experts) for experts in layers),
    "tier_reports": lambda reports: tuple(TierReport(**report) for report in reports),
}
