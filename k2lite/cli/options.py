"""Options that commands share, their types, and their twins in the environment. Imports no torch."""

import argparse
import functools
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from k2lite.engine_options import DEFAULT_CONTEXT_TOKENS, MAX_THREADS, EngineOptions
from k2lite.environment import option_from_environment, twin_name
from k2lite.events import SEED_LIMIT, Sampling
from k2lite.sizes import parse_size
from quant.errors import K2Error, RequestError

Parsed = TypeVar("Parsed")


class UsageError(K2Error):
    """The command line asks for something that cannot be done as written. Exit status 2."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they are written, and leaves room for longer options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def readable_errors(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """`parse` for argparse, which shows the text of a ValueError only in this disguise."""

    @functools.wraps(parse)
    def convert(text: str) -> Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def positive(text: str) -> int:
    """A whole number of 1 or more; k and M multiply by 1024 and its square. Raises ValueError."""
    number = parse_size(text)
    if number < 1:
        raise ValueError(f"{text} must be 1 or more")
    return number


def thread_count(text: str) -> int:
    """A whole number of 1 or more, and not more than any machine has cores for. Raises ValueError."""
    count = whole_number(text)
    if not 1 <= count <= MAX_THREADS:
        raise ValueError(f"{text} must be at least 1 and at most {MAX_THREADS}")
    return count


def number(text: str) -> float:
    """Raises ValueError that reads well."""
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a number") from error


def whole_number(text: str) -> int:
    """Raises ValueError that reads well."""
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a whole number") from error


def seed(text: str) -> int:
    """Raises ValueError that reads well, before a model is loaded for nothing."""
    value = whole_number(text)
    if not 0 <= value < SEED_LIMIT:
        raise ValueError(f"{text} must be at least 0 and below 2^63")
    return value


def add_option(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    *names: str,
    type: Callable[[str], Any] = str,
    choices: tuple[str, ...] | None = None,
    default: Any = None,
    **rest: Any,
) -> None:
    """Add an option with a value. Its default comes from its variable when that is set.

    Raises UsageError when the variable's value would not be accepted on the command line either.
    """
    text = option_from_environment(names[-1])
    if text is not None:
        default = _from_variable(twin_name(names[-1]), text, type, choices)
        default = [default] if rest.get("action") == "append" else default
    parser.add_argument(*names, type=readable_errors(type), choices=choices, default=default, **rest)


def add_switch(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *names: str, help: str) -> None:
    """Add an option without a value. Its variable may be 1 or 0."""
    text = option_from_environment(names[-1])
    default = text is not None and _from_variable(twin_name(names[-1]), text, str, ("0", "1")) == "1"
    parser.add_argument(*names, action="store_true", default=default, help=help)


def _from_variable(name: str, text: str, parse: Callable[[str], Any], choices: tuple[str, ...] | None) -> Any:
    try:
        value = parse(text)
    except ValueError as error:
        raise UsageError(f"the variable {name} is not usable: {error}") from error
    if choices is not None and value not in choices:
        raise UsageError(f"the variable {name} is {text!r}, but must be one of {', '.join(choices)}")
    return value


def add_model(parser: argparse.ArgumentParser, help: str = "GGUF file; without one, the built-in demo model") -> None:
    """Which model: the optional MODEL."""
    add_option(parser, "model", type=Path, nargs="?", metavar="MODEL", help=help)


def add_context_option(parser: argparse.ArgumentParser) -> None:
    """How much the model may keep in mind: --ctx."""
    add_option(
        parser,
        "--ctx",
        type=positive,
        metavar="N",
        help=f"tokens of prompt and answer, as in 32k (default: what the model has, at most {DEFAULT_CONTEXT_TOKENS})",
    )


def add_compute_options(parser: argparse.ArgumentParser) -> None:
    """Who multiplies: --threads, --pin, --kernels."""
    add_option(parser, "--threads", type=thread_count, metavar="N", help="threads that compute (default: all cores)")
    add_switch(parser, "--pin", help="keep every thread on a core of its own, where nothing else uses the machine")
    add_option(
        parser,
        "--kernels",
        metavar="NAME",
        default=EngineOptions.kernels,
        help="what multiplies: native (default), ggml, or reference, slow and plain",
    )


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """Where experts live: --ram-budget, --devices, --vram-budget, --mirror."""
    add_option(
        parser,
        "--ram-budget",
        type=positive,
        metavar="SIZE",
        help="RAM for all weights and buffers, as in 48G (default: what is free, less an eighth)",
    )
    add_option(
        parser,
        "--devices",
        metavar="CARDS",
        help="cards for layers and experts: cuda (all), cuda:0,1, or virtual:NxSIZE, made out of RAM",
    )
    add_option(parser, "--vram-budget", type=positive, metavar="SIZE", help="of each card (default: all of it)")
    add_option(
        parser, "--mirror", metavar="PATH", help="copy of the model on another drive: experts are read from both"
    )


# Options that not every command has, and the fields of EngineOptions that they fill.
_MEMORY_FIELDS = {
    "ram_budget": "ram_budget_bytes",
    "vram_budget": "vram_budget_bytes",
    "devices": "devices",
    "mirror": "mirror",
    "record_routing": "record_routing",
}


def engine_options(options: argparse.Namespace) -> EngineOptions:
    """What add_context_option, add_compute_options and add_memory_options were given. Raises UsageError."""
    try:
        return EngineOptions(
            context_tokens=options.ctx,
            threads=options.threads,
            kernels=options.kernels,
            pin_threads=options.pin,
            **{field: getattr(options, name, None) for name, field in _MEMORY_FIELDS.items()},
        )
    except RequestError as error:
        raise UsageError(f"{error}") from error


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """How an answer is made: length, sampling, system prompt, thinking."""
    add_option(parser, "-n", "--max-tokens", type=positive, metavar="N", help="end the answer after N tokens")
    add_option(parser, "--temperature", type=number, metavar="T", help="0 takes the most probable token each time")
    add_option(parser, "--top-p", type=number, metavar="P", help="draw from the most probable that make up P")
    add_option(parser, "--top-k", type=whole_number, metavar="K", help="draw from the K most probable; 0 for all")
    add_option(parser, "--min-p", type=number, metavar="P", help="leave out what is less than P of the most probable")
    add_option(
        parser, "--repeat-penalty", type=number, metavar="X", help="above 1 makes tokens of the last 256 less likely"
    )
    add_option(parser, "--seed", type=seed, metavar="N", help="makes an answer repeatable (default: drawn and shown)")
    add_option(parser, "--system", metavar="TEXT", help="system prompt")
    add_option(parser, "--thinking", choices=("on", "off"), help="let the model think first, where it can choose")


def sampling_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The sampling fields that were given. Raises UsageError for a value out of range."""
    given = {field.name: getattr(options, field.name) for field in fields(Sampling)}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        replace(Sampling(), **given)
    except RequestError as error:
        raise UsageError(f"{error}") from error
    return given


def thinking_choice(options: argparse.Namespace) -> bool | None:
    """What --thinking asks for, None when it was not given."""
    return None if options.thinking is None else options.thinking == "on"
