"""`k2lite chat`: the engine in a child process, the screen in this one."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from k2lite.environment import data_folder
from k2lite.safe_text import printable
from tui.chat_options import DEFAULT_WEB_PORT, add_chat_options

if TYPE_CHECKING:
    from tui.launch import Launch
    from tui.tools.mcp_server import McpServer

DESCRIPTION = """Talk to a model in the terminal. Enter sends, Esc stops an answer, / shows the commands, F1 all keys,
Ctrl+Q or Ctrl+C leaves. Conversations are saved as they grow."""
EXAMPLES = """examples:
  k2lite chat                                the built-in demo model
  k2lite chat k2.gguf --ctx 32k --temperature 0.6 --system "Answer briefly."
  k2lite chat --continue                     the chat of last time
  k2lite chat k2.gguf --tools all --allow-tool list_folder
  k2lite chat --mcp 'files=npx some-mcp-server /data'
  k2lite chat --web                          the same in a browser on this machine

Every option can stand in the settings file (--config), by its name: ctx = "32k". So can keys, servers and prompts:
  [keys]
  "app.experts" = "f8"
  [mcp.files]
  command = ["some-mcp-server", "/data"]
  [prompts]
  "Commit message" = "Write a commit message for this diff: @…"
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_chat_options(parser)
    add_answer_options(parser)
    add_context_option(parser)
    add_compute_options(parser)
    add_memory_options(parser)


def add_defaults(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Let the settings file that `arguments` name, or the usual one, give the defaults. Raises UsageError."""
    from tui.settings_file import apply_settings, read_settings, settings_path

    path = settings_path(arguments)
    settings = {} if path is None else read_settings(path)
    if path is not None:
        apply_settings(parser, settings, path)
    parser.set_defaults(settings=settings, settings_path=path, arguments=list(arguments))


def execute(options: argparse.Namespace) -> int:
    _check(options)
    if options.web and not _in_browser():
        return _serve(options)
    launch = make_launch(options)
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)) and not _in_browser():
        raise UsageError("chat needs a terminal: for pipes and files there is k2lite run -p -")
    from tui.app import ChatApp

    app = ChatApp(launch)
    try:
        app.run()
    finally:
        app.slot.end()
    for report in app.crash_reports:
        print(printable(report), file=sys.stderr, end="")
    return app.return_code or 0


def make_launch(options: argparse.Namespace) -> "Launch":
    """What the options ask for. Raises UsageError."""
    from k2lite.engine_process import ProcessEngine
    from tui.conversation import ChatSettings
    from tui.engine_slot import ModelChoice
    from tui.launch import Launch
    from tui.settings_file import prompts_of
    from tui.tool_rounds import DEFAULT_MAX_ROUNDS

    return Launch(
        make_engine=lambda choice: ProcessEngine(choice.path, choice.options),
        settings=ChatSettings(
            options.system, thinking_choice(options), options.max_tokens, options.seed, sampling_overrides(options)
        ),
        choice=ModelChoice(options.model, engine_options(options)),
        database=None if options.no_save else options.database or data_folder() / "chats.db",
        resume=_resume(options),
        theme=_theme(options.theme),
        models_folder=options.models or (options.model.parent if options.model is not None else Path()),
        tools=options.tools or (),
        allowed=options.allow_tool or (),
        mcp_servers=tuple(_servers(options)),
        tool_rounds=options.tool_rounds or DEFAULT_MAX_ROUNDS,
        keys=_keys(options),
        prompts=prompts_of(options.settings, options.settings_path),
        experts=options.experts,
    )


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot take effect."""
    wants_saved = [name for name in ("database", "open", "continue") if getattr(options, name)]
    if options.no_save and wants_saved:
        raise UsageError(f"--{wants_saved[0]} cannot take effect: --no-save saves and opens nothing")
    if options.open is not None and getattr(options, "continue"):
        raise UsageError("--continue cannot take effect: --open names another chat")
    if options.web_port is not None and not options.web:
        raise UsageError("--web-port cannot take effect without --web")
    if options.web_port is not None and options.web_port > 65535:
        raise UsageError(f"--web-port is {options.web_port}, but must be at most 65535")
    if options.allow_tool and not (options.tools or _servers(options)):
        raise UsageError("--allow-tool cannot take effect: --tools offers none")


def _serve(options: argparse.Namespace) -> int:
    from tui.web import serve

    make_launch(options)  # what is wrong with the options is said here, not in the browser
    without = [argument for argument in options.arguments if argument != "--web"]
    command = [sys.executable, "-P", "-m", "k2lite.cli.main", *_without_option(without, "--web-port")]
    return serve(shlex.join(command), options.web_port or DEFAULT_WEB_PORT)


def _without_option(arguments: Sequence[str], name: str) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == name:
            skip = True
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def _in_browser() -> bool:
    from textual import constants

    return constants.DRIVER is not None


def _resume(options: argparse.Namespace) -> int | Literal["last"] | None:
    if options.open is not None:
        return int(options.open)
    return "last" if getattr(options, "continue") else None


def _theme(name: str | None) -> str:
    from textual.theme import BUILTIN_THEMES

    if name is not None and name not in BUILTIN_THEMES:
        raise UsageError(f"there is no theme {name!r}; there are: {', '.join(sorted(BUILTIN_THEMES))}")
    return name or "textual-dark"


def _servers(options: argparse.Namespace) -> "list[McpServer]":
    from tui.settings_file import servers_of

    servers = [*servers_of(options.settings, options.settings_path), *(options.mcp or ())]
    names = [server.name for server in servers]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UsageError(f"two MCP servers are called {double}: give one of them another name")
    return servers


def _keys(options: argparse.Namespace) -> dict[str, str]:
    from quant.errors import K2Error
    from tui.keys import checked_keymap
    from tui.settings_file import keys_of

    keys = keys_of(options.settings, options.settings_path) | dict(options.key or ())
    try:
        return checked_keymap(keys)
    except K2Error as error:
        raise UsageError(str(error)) from error
