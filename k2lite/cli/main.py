"""The `k2lite` command: finds the command's module, runs it, and turns errors into one line and an exit status."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from k2lite import __version__
from k2lite.cli.interrupt import insistent_interrupts
from k2lite.cli.notes import print_note
from k2lite.cli.options import HelpFormatter, UsageError
from k2lite.environment import option_from_environment, prepare_threads
from quant.errors import K2Error, OutputError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """Where a command lives. Its module has DESCRIPTION, EXAMPLES, add_options(parser) and execute(options) -> status,
    and may have add_defaults(parser, arguments) for defaults from a file that the arguments name.

    The module is imported only when its command is used. The screen's command lives with the screen: naming it here
    as text keeps this package free of imports from it.
    """

    module: str
    summary: str


COMMANDS = {
    "chat": Command("tui.command", "talk to a model in the terminal"),
    "run": Command("k2lite.cli.run", "one answer on stdout"),
    "quantize": Command("k2lite.cli.quantize", "turn a checkpoint folder into one GGUF file"),
    "imatrix": Command("k2lite.cli.imatrix", "learn from a text which weights matter most"),
    "inspect": Command("k2lite.cli.inspect", "show what is in a GGUF file or a checkpoint folder"),
    "plan": Command("k2lite.cli.plan", "what goes where and how fast it will be, here or elsewhere"),
    "doctor": Command("k2lite.cli.doctor", "what this machine has and lacks"),
    "bench": Command("k2lite.cli.bench", "measure how fast it is here"),
    "eval": Command("k2lite.cli.eval", "perplexity, and the difference to a reference model"),
    "synth": Command("k2lite.cli.synth", "make a random-weight model of any shape"),
}

_DESCRIPTION = "Kimi K2 on machines that people own: quantize it, run it, talk to it."
_EXAMPLES = """examples:
  k2lite chat                                   talk to the built-in demo model
  k2lite quantize ./Kimi-K2-Instruct k2.gguf    one 4-bit file from the published checkpoint
  k2lite run k2.gguf -p "Why is the sky blue?"  one answer on stdout

Most options can also be set by a variable: K2LITE_CTX=32k is --ctx 32k. `k2lite COMMAND --help` says more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    prepare_threads()
    _prepare_streams()
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        with insistent_interrupts():
            options = build_parser(arguments).parse_args(arguments)
            choose_instructions(option_from_environment("isa"))
            status: int = options.execute(options)
            sys.stdout.flush()
        return status
    except UsageError as error:
        return _fail(error, EXIT_USAGE)
    except K2Error as error:
        return _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # whoever read our output has seen enough
            return EXIT_FAILED
        return _fail(OutputError("the output cannot be written: its disk is full"), EXIT_FAILED)


def choose_instructions(isa: str | None) -> None:
    """Let native code use this instruction set ("avx2", "portable") instead of the machine's best, for comparisons.

    There is only the variable, K2LITE_ISA: nobody needs it to get work done. Raises LibraryError for one that the
    machine lacks.
    """
    if isa is not None:
        from quant import native_library

        native_library.load_native().use(isa)


def _prepare_streams() -> None:
    """Characters that the terminal's encoding lacks become "?"; a stream that was closed before takes anything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # open till the end
        getattr(sys, name).reconfigure(errors="replace")


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that knows every command by name, and the options of the one that `arguments` name."""
    parser = argparse.ArgumentParser(
        prog="k2lite", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"k2lite {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    named = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, command in COMMANDS.items():
        if name != named:
            commands.add_parser(name, help=command.summary)
            continue
        module = importlib.import_module(command.module)
        chosen = commands.add_parser(
            name,
            help=command.summary,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        module.add_options(chosen)
        if hasattr(module, "add_defaults"):
            module.add_defaults(chosen, arguments)
        chosen.set_defaults(execute=module.execute)
    return parser


def _fail(error: K2Error, status: int) -> int:
    print_note(str(error))
    return status


if __name__ == "__main__":
    sys.exit(main())
