"""Chats as files: Markdown to read, JSON to read back."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from k2lite.chat_messages import ROLES
from k2lite.events import Message, ToolCall
from tui.errors import SessionError
from tui.sessions.records import Chat, Entry, StoredEntry
from tui.sessions.store import SessionStore

FORMAT = "k2lite-chat"
VERSION = 1
MAX_FILE_BYTES = 256 * 2**20

_NAMES = {"user": "You", "assistant": "Answer", "system": "System", "tool": "Tool"}


def markdown_of(chat: Chat, path: Sequence[Entry]) -> str:
    """One branch of a chat for people: questions as headings, answers as they are, thinking and tools folded in."""
    parts = [f"# {chat.title}\n", f"*{chat.model or 'no model'}, {_day(chat.created_at)}*\n"]
    system = chat.settings.get("system")
    if system:
        parts.append(f"> {_quoted(str(system))}\n")
    for entry in path:
        parts.append(_markdown_entry(entry))
    return "\n".join(parts)


def _markdown_entry(entry: Entry) -> str:
    message = entry.message
    if entry.kind == "cut":
        return f"---\n\n*Earlier messages were left out from here on.* {message.content}\n"
    lines = [f"## {_NAMES[message.role]}{f' ({message.name})' if message.name else ''}\n"]
    if message.reasoning:
        fold = f"<details><summary>Thinking</summary>\n\n{message.reasoning}\n\n</details>\n"
        lines.append(fold)
    lines.append(_fenced(message.content) if message.role == "tool" else message.content + "\n")
    for call in message.tool_calls:
        lines.append(f"Calls `{call.name}` with\n\n{_fenced(call.arguments)}")
    return "\n".join(lines)


def json_of(chats: Iterable[tuple[Chat, Sequence[StoredEntry]]]) -> str:
    """Whole chats with all branches, as `import_json` reads them."""
    exported = [_json_chat(chat, entries) for chat, entries in chats]
    return json.dumps({"format": FORMAT, "version": VERSION, "chats": exported}, ensure_ascii=False, indent=1)


def _json_chat(chat: Chat, entries: Sequence[StoredEntry]) -> dict[str, Any]:
    numbers = {stored.id: number for number, stored in enumerate(entries)}
    return {
        "title": chat.title,
        "model": chat.model,
        "settings": dict(chat.settings),
        "created_at": chat.created_at,
        "tip": None if chat.tip_id is None else numbers.get(chat.tip_id),
        "messages": [
            {
                "parent": None if stored.parent_id is None else numbers[stored.parent_id],
                "kind": stored.entry.kind,
                "finish": stored.entry.finish,
                "extra": dict(stored.entry.extra),
                **asdict(stored.entry.message),
            }
            for stored in entries
        ],
    }


def write_new(path: Path, text: str) -> Path:
    """Write a file that did not exist. Raises SessionError when it does, or cannot be written."""
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except FileExistsError as error:
        raise SessionError(f"{path} exists already: name another file") from error
    except OSError as error:
        raise SessionError(f"cannot write {path}: {error.strerror or error}") from error
    return path.absolute()


def import_json(store: SessionStore, path: Path) -> list[int]:
    """Add the chats of an exported file; returns their new ids. Raises SessionError, and then adds none."""
    chats = [_read_chat(chat, number) for number, chat in enumerate(_read_file(path))]
    return [_add_chat(store, chat, messages) for chat, messages in chats]


def _read_file(path: Path) -> list[Any]:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SessionError(f"{path} has {size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SessionError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SessionError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("chats"), list):
        raise SessionError(f"{path} is no export of k2lite chats (its format is not {FORMAT!r})")
    if content.get("version") != VERSION:
        raise SessionError(f"{path} has version {content.get('version')!r}, this k2lite reads {VERSION}")
    chats: list[Any] = content["chats"]
    return chats


ParsedMessage = tuple[int | None, Entry]


def _read_chat(chat: Any, number: int) -> tuple[dict[str, Any], list[ParsedMessage]]:
    try:
        fields = {
            "title": str(chat["title"]),
            "model": str(chat["model"]),
            "settings": dict(chat["settings"]),
            "tip": chat["tip"],
        }
        messages = [_read_message(message, place) for place, message in enumerate(chat["messages"])]
        if fields["tip"] is not None and fields["tip"] not in range(len(messages)):
            raise ValueError(f"its end is message {fields['tip']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise SessionError(f"chat {number} of the file is damaged: {type(error).__name__} {error}") from error
    return fields, messages


def _read_message(fields: Mapping[str, Any], place: int) -> ParsedMessage:
    parent, role, kind = fields["parent"], fields["role"], fields["kind"]
    if parent is not None and not (isinstance(parent, int) and 0 <= parent < place):
        raise ValueError(f"message {place} has the parent {parent!r}")
    if role not in ROLES or kind not in ("message", "cut"):
        raise ValueError(f"message {place} has the role {role!r} and the kind {kind!r}")
    calls = tuple(ToolCall(str(c["id"]), str(c["name"]), str(c["arguments"])) for c in fields["tool_calls"])
    texts = [str(fields[name]) for name in ("content", "reasoning", "tool_call_id", "name")]
    message = Message(role, texts[0], texts[1], calls, texts[2], texts[3])
    finish = fields["finish"]
    return parent, Entry(message, kind, None if finish is None else str(finish), dict(fields["extra"]))


def _add_chat(store: SessionStore, chat: Mapping[str, Any], messages: Sequence[ParsedMessage]) -> int:
    chat_id = store.create_chat(chat["title"], chat["model"], chat["settings"])
    ids: list[int] = []
    for parent, entry in messages:
        ids.append(store.add(chat_id, None if parent is None else ids[parent], entry))
    store.set_tip(chat_id, None if chat["tip"] is None else ids[chat["tip"]])
    return chat_id


def file_name(title: str, suffix: str) -> str:
    """A name for an exported chat: letters and digits of its title and the moment."""
    letters = "".join(character if character.isalnum() else "-" for character in title.lower())
    short = "-".join(part for part in letters.split("-") if part)[:40].strip("-") or "chat"
    return f"k2lite-{short}-{time.strftime('%Y%m%d-%H%M%S')}{suffix}"


def _fenced(text: str) -> str:
    """A code block that the text cannot end: its fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}\n"


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
