"""`k2lite chat`: the engine in a child process, the screen in this one."""

import argparse
import sys

from k2lite.cli.options import (
    UsageError,
    add_answer_options,
    add_compute_options,
    add_context_option,
    add_memory_options,
    add_model,
    engine_options,
    sampling_overrides,
    thinking_choice,
)
from k2lite.safe_text import printable

DESCRIPTION = "Talk to a model in the terminal. Enter sends, Esc stops an answer, Ctrl+Q or Ctrl+C leaves."
EXAMPLES = """examples:
  k2lite chat                                the built-in demo model
  k2lite chat k2.gguf --ctx 32k --temperature 0.6 --system "Answer briefly."
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_answer_options(parser)
    add_context_option(parser)
    add_compute_options(parser)
    add_memory_options(parser)


def execute(options: argparse.Namespace) -> int:
    overrides = sampling_overrides(options)
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # Textual draws on stderr
        raise UsageError("chat needs a terminal: for pipes and files there is k2lite run -p -")
    from k2lite.engine_process import ProcessEngine
    from tui.app import ChatApp
    from tui.conversation import ChatSettings

    settings = ChatSettings(options.system, thinking_choice(options), options.max_tokens, options.seed, overrides)
    engine = ProcessEngine(options.model, engine_options(options))
    app = ChatApp(engine, settings)
    try:
        app.run()
    finally:
        engine.close()
    for report in app.crash_reports:
        print(printable(report), file=sys.stderr, end="")
    return app.return_code or 0
