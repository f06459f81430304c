"""The options that only the chat has, and their types. Imports no textual."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from k2lite.cli.options import add_option, add_switch, positive, whole_number

DEFAULT_WEB_PORT = 8765


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Settings file and looks; saved conversations; tools; keys and browser."""
    add_option(
        parser,
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file (default: chat.toml in the configuration folder)",
    )
    add_option(parser, "--theme", metavar="NAME", help="colours, as in textual-dark (default), nord, ansi-dark")
    add_option(
        parser,
        "--models",
        type=Path,
        metavar="FOLDER",
        help="where the model picker looks (default: MODEL's folder, or here)",
    )
    add_switch(parser, "--experts", help="show the map of the experts from the start")
    sessions = parser.add_argument_group("conversations")
    add_option(
        sessions,
        "--database",
        type=Path,
        metavar="FILE",
        help="where conversations are saved (default: in the data folder)",
    )
    add_switch(sessions, "--no-save", help="save nothing")
    add_switch(sessions, "-c", "--continue", help="go on with the chat of last time")
    add_option(
        sessions, "--open", type=whole_number, metavar="N", help="go on with chat N, as /chats and /search number them"
    )
    tools = parser.add_argument_group("tools")
    add_option(
        tools,
        "--tools",
        type=_names,
        metavar="LIST",
        help="tools to offer: all, none (default), or names divided by commas",
    )
    add_option(tools, "--allow-tool", type=_names, metavar="LIST", help="tools that may run without being asked for")
    add_option(
        tools, "--tool-rounds", type=positive, metavar="N", help="rounds of tools a question may take (default: 8)"
    )
    add_option(
        tools,
        "--mcp",
        type=_server,
        action="append",
        metavar="NAME=COMMAND",
        help="an MCP server over stdio; may be repeated",
    )
    screen = parser.add_argument_group("keys and browser")
    add_option(
        screen,
        "--key",
        type=_key,
        action="append",
        metavar="ID=KEY",
        help="another key, as in app.experts=f8; may be repeated",
    )
    add_switch(screen, "--web", help="serve the chat to a browser on this machine, instead of the terminal")
    add_option(screen, "--web-port", type=positive, metavar="N", help=f"its port (default: {DEFAULT_WEB_PORT})")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    return () if names == ("none",) else names


def _key(text: str) -> tuple[str, str]:
    name, equals, key = text.partition("=")
    if not equals or not name or not key:
        raise ValueError(f"{text!r} is not of the form ID=KEY, as in app.experts=f8")
    return name, key


def _server(text: str) -> "Any":
    from tui.tools.mcp_server import McpServer

    name, equals, command = text.partition("=")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    if not equals or not name or not words:
        raise ValueError(f"{text!r} is not of the form NAME=COMMAND")
    return McpServer(name, tuple(words))
