"""Copying: with the platform's own tool where there is one, else through the terminal. Says which way it went."""

import asyncio
import shutil
import sys
from collections.abc import Sequence

from k2lite.environment import displays, inside_tmux, over_ssh

_PATIENCE_S = 3.0

OSC_52 = "sent to the terminal (OSC 52), which may or may not have put it into its clipboard"
OSC_52_TMUX = "sent through tmux (OSC 52), which passes it on only with `set -g set-clipboard on`"


def clipboard_tools() -> list[Sequence[str]]:
    """Commands that take the text on stdin, the likeliest first; none when the terminal is on another machine."""
    if over_ssh():
        return []
    candidates: list[Sequence[str]] = []
    if sys.platform == "darwin":
        candidates.append(("pbcopy",))
    if "wayland" in displays():
        candidates.append(("wl-copy",))
    if "x11" in displays():
        candidates += [("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input")]
    candidates.append(("clip.exe",))  # Windows' own, from its Linux subsystem
    return [command for command in candidates if shutil.which(command[0])]


async def copy_with_tool(text: str) -> str:
    """Give `text` to the first tool that takes it; returns its name, "" when there is none."""
    for command in clipboard_tools():
        if await _run(command, text):
            return command[0]
    return ""


def terminal_way() -> str:
    """What is to be said about a copy through the terminal."""
    return OSC_52_TMUX if inside_tmux() else OSC_52


async def _run(command: Sequence[str], text: str) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await process.communicate(text.encode("utf-8", "replace"))
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
    return process.returncode == 0
