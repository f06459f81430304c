"""What crosses the pipe is the same on the other side."""

import dataclasses
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from k2lite import wire
from k2lite.events import Engine, Request
from quant import errors

# Line breaks of all kinds, half a character and an escape sequence.
TEXT = "line\nline\u2028 \ud800 \x1b[2J 你"


def answer_kinds() -> set[type]:
    """Every record that an engine answers with, by what its methods promise."""
    methods = [method for name, method in vars(Engine).items() if not name.startswith("_")]
    promised = [_without_iterator(get_type_hints(method)["return"]) for method in methods]
    return {kind for hint in promised for kind in _choices(hint) if dataclasses.is_dataclass(kind)}


def _without_iterator(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Iterator else hint


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is types.UnionType else (hint,)


def sample(hint: Any, *, full: bool) -> Any:
    """A value of this type that is hard on the pipe; with `full` False None and empty where that is allowed."""
    choices = _choices(hint)
    if type(None) in choices and not full:
        return None
    kind = next(choice for choice in choices if choice is not type(None))
    parts = get_args(kind)
    if dataclasses.is_dataclass(kind):
        return kind(**{name: sample(part, full=full) for name, part in get_type_hints(kind).items()})
    if get_origin(kind) is Literal:
        return parts[-1 if full else 0]
    if get_origin(kind) is tuple:
        return (sample(parts[0], full=full),) * 2 if full else ()
    if get_origin(kind) is dict:
        return {sample(parts[0], full=full): sample(parts[1], full=full)} if full else {}
    return {str: TEXT, int: 2**62, float: 0.1, bool: True, Any: {"x": [1, None]}}[kind]


def through_the_pipe(fields: dict) -> dict:
    line = wire.dump_line(fields)
    assert line.endswith("\n")
    assert line.isascii()
    assert line.count("\n") == 1
    decoded: dict = json.loads(line)
    return decoded


def test_the_answers_of_an_engine_are_found() -> None:
    assert {"LoadProgress", "EngineInfo", "Token", "Finished"} <= {kind.__name__ for kind in answer_kinds()}


@pytest.mark.parametrize("full", [True, False], ids=["full", "sparse"])
@pytest.mark.parametrize("kind", sorted(answer_kinds(), key=lambda kind: kind.__name__))
def test_every_answer_survives(kind: type, full: bool) -> None:
    answer = sample(kind, full=full)
    assert wire.decode(through_the_pipe(wire.encode(answer))) == answer


@pytest.mark.parametrize("full", [True, False], ids=["full", "sparse"])
def test_requests_survive(full: bool) -> None:
    request = sample(Request, full=full)
    assert wire.decode_request(through_the_pipe(wire.encode_request(request))) == request


@pytest.mark.parametrize("kind", errors.K2Error.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_error_keeps_its_class_and_text(kind: type[errors.K2Error]) -> None:
    decoded = wire.decode(through_the_pipe(wire.encode(kind("what failed: what to do"))))
    assert type(decoded) is kind
    assert str(decoded) == "what failed: what to do"


def test_an_error_that_this_side_does_not_know_keeps_its_text() -> None:
    decoded = wire.decode({"kind": "ErrorOfTomorrow", "message": "wait"})
    assert type(decoded) is errors.EngineError
    assert str(decoded) == "wait"
