"""What the prompt offers while a command or a file name is being written."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_OFFERS = 50
_MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]*)|([^\s"]*))$')


@dataclass(frozen=True)
class Offer:
    """One completion: the text of the whole prompt with it, what is shown for it, and what that means."""

    text: str
    label: str
    help: str = ""


def mention_at_end(text: str) -> str | None:
    """The path behind the @ that is being written, None when none is."""
    match = _MENTION.search(text)
    return None if match is None else match[1] if match[1] is not None else match[2]


def path_offers(text: str, only_files: Sequence[str] = ()) -> list[Offer]:
    """Files and folders that begin with what stands behind the last @ of `text`. Blocks on the disk."""
    match = _MENTION.search(text)
    if match is None:
        return []
    written = match[1] if match[1] is not None else match[2]
    before = text[: match.start()] + "@"
    offers = []
    for path in matching_paths(written):
        quoted = f'"{path}"' if any(character.isspace() for character in path) else path
        offers.append(Offer(before + quoted + ("" if path.endswith("/") else " "), path))
    return offers


def matching_paths(written: str) -> list[str]:
    """Paths that begin with `written`, folders with a slash behind them. Blocks on the disk."""
    folder, _, prefix = written.rpartition("/")
    shown = f"{folder}/" if "/" in written else ""
    found = []
    try:
        with os.scandir(Path(shown).expanduser() if shown else ".") as entries:
            for entry in entries:
                if entry.name.startswith(prefix) and (prefix.startswith(".") or not entry.name.startswith(".")):
                    found.append(shown + entry.name + ("/" if entry.is_dir() else ""))
                if len(found) > 10 * MAX_OFFERS:
                    break
    except (OSError, ValueError):
        return []
    return sorted(found)[:MAX_OFFERS]
