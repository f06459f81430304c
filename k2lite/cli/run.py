"""`k2lite run`: one answer on stdout, nothing else there."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from k2lite.cli.answer_output import AnswerOutput, answer_record, statistics_line
from k2lite.cli.engines import loaded_engine
from k2lite.cli.interrupt import stop_on_interrupt
from k2lite.cli.options import (
    UsageError,
    add_answer_options,
    add_compute_options,
    add_context_option,
    add_memory_options,
    add_model,
    add_option,
    add_switch,
    sampling_overrides,
    thinking_choice,
)
from k2lite.cli.tier_lines import tier_lines
from k2lite.events import EngineInfo, ExpertReport, Finished, Message, Request, Token
from quant.errors import RequestError

DESCRIPTION = "Answer one prompt. The answer goes to stdout, thinking and statistics go to stderr."
EXAMPLES = """examples:
  k2lite run -p "What is an expert?"                   the built-in demo model
  k2lite run k2.gguf --temperature 0 -p - < ask.txt    the prompt from a file
  k2lite run k2.gguf --raw -p "Once upon a time" -n 64 --json

Ctrl-C stops after the current token; the exit status is then 130."""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_option(parser, "-p", "--prompt", metavar="TEXT", help="the prompt; - reads it from stdin (required)")
    add_switch(parser, "--raw", help="the prompt as it is, without the chat template")
    add_switch(parser, "--json", help="one JSON object with text, token ids, speeds and counters")
    add_option(
        parser,
        "--show-thinking",
        choices=("auto", "always", "never"),
        default="auto",
        help="thinking on stderr; auto (default) shows it on a terminal",
    )
    add_answer_options(parser)
    add_context_option(parser)
    add_compute_options(parser)
    add_memory_options(parser)
    add_option(
        parser, "--record-routing", metavar="FILE", help="write down which experts each token went to, as JSON lines"
    )


def execute(options: argparse.Namespace) -> int:
    request, overrides = _request(options), sampling_overrides(options)
    output = AnswerOutput(_shows_thinking(options))
    token_ids: list[int] = []
    report: ExpertReport | None = None
    with loaded_engine(options) as engine, stop_on_interrupt() as stop:
        info = engine.info()
        for event in engine.generate(_with_sampling(request, info, overrides), stop):
            if isinstance(event, Token):
                token_ids += [] if event.id is None else [event.id]
                if not options.json:
                    output.write(event)
            elif isinstance(event, ExpertReport):
                report = event
            elif isinstance(event, Finished):
                finished = event
        output.end()
        print(statistics_line(finished), file=sys.stderr)
        if report is not None:
            print("".join(f"{line}\n" for line in tier_lines(report)), end="", file=sys.stderr)
        if options.json:
            print(json.dumps(answer_record(finished, token_ids, info, report)))
        return 130 if stop.is_set() else 0


def _shows_thinking(options: argparse.Namespace) -> bool:
    if options.json and options.show_thinking == "always":
        raise UsageError('--json prints thinking as "reasoning": leave out --show-thinking always')
    return options.show_thinking == "always" or (options.show_thinking == "auto" and sys.stderr.isatty())


def _request(options: argparse.Namespace) -> Request:
    """The request without its sampling. Raises UsageError for options that contradict each other."""
    shared: dict[str, Any] = {"max_tokens": options.max_tokens, "seed": options.seed}
    if not options.raw:
        system = (Message("system", options.system),) if options.system is not None else ()
        messages = (*system, Message("user", _prompt(options)))
        return Request(messages=messages, thinking=thinking_choice(options), **shared)
    for name in ("system", "thinking"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} works through the chat template, which --raw leaves out: use one of them")
    return Request(raw_prompt=_prompt(options), **shared)


def _prompt(options: argparse.Namespace) -> str:
    if options.prompt is None:
        raise UsageError("no prompt: give one with -p TEXT, or -p - to read it from stdin")
    text: str = _stdin_text() if options.prompt == "-" else options.prompt
    if not text:
        raise UsageError("the prompt is empty: give it at least one character")
    return text


def _stdin_text() -> str:
    """All of stdin. Raises RequestError when it was closed, cannot be read or is no text."""
    if sys.stdin is None:
        raise RequestError("stdin is closed: pass the prompt with -p TEXT, or open stdin for -p -")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the prompt on stdin is not {error.encoding.upper()} at byte {error.start}: convert it to UTF-8 text"
        ) from error
    except OSError as error:
        raise RequestError(f"cannot read the prompt from stdin: {error.strerror}, pass it with -p TEXT") from error


def _with_sampling(request: Request, info: EngineInfo, overrides: dict[str, Any]) -> Request:
    return replace(request, sampling=replace(info.sampling_for(request.thinking), **overrides))
