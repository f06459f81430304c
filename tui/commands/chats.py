"""Commands about whole chats: new, list, search, rename, delete, export, import."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from quant.errors import K2Error
from tui.commands.registry import command
from tui.sessions.exported import file_name, import_json, json_of, markdown_of, write_new
from tui.sessions.store import SessionStore

if TYPE_CHECKING:
    from tui.app import ChatApp


@command("new", "begin a new chat, with an empty context", idle=True)
async def new(app: "ChatApp", argument: str) -> None:
    await app.actions.new_chat()


@command("chats", "list all chats: open, rename, delete", idle=True)
async def chats(app: "ChatApp", argument: str) -> None:
    await _open_list(app, "")


@command("search", "search the text of all chats", "WORDS", idle=True)
async def search(app: "ChatApp", argument: str) -> None:
    await _open_list(app, argument)


@command("open", "open a chat by its number", "NUMBER", idle=True)
async def open_chat(app: "ChatApp", argument: str) -> None:
    if not argument.isdecimal():
        app.say("Which chat? /open NUMBER, or /chats for the list.")
        return
    await app.actions.open_chat(int(argument))


@command("rename", "give this chat another name", "NAME")
async def rename(app: "ChatApp", argument: str) -> None:
    if not argument:
        app.say("What shall it be called? /rename NAME")
        return
    await app.chat.rename(argument)
    app.show_title()


@command("delete", "delete this chat; /undo brings it back", idle=True)
async def delete(app: "ChatApp", argument: str) -> None:
    chat_id = app.chat.chat_id
    if chat_id is None:
        app.say("This chat is not saved: Ctrl+N leaves it.")
        return
    await app.sessions.call(SessionStore.delete, chat_id)
    app.deleted_chats.append(chat_id)
    await app.actions.new_chat()
    app.say("Deleted. /undo brings it back.")


@command("undo", "bring the chat back that was deleted last", idle=True)
async def undo(app: "ChatApp", argument: str) -> None:
    if not app.deleted_chats:
        app.say("No chat was deleted since the start.")
        return
    chat_id = app.deleted_chats.pop()
    await app.sessions.call(SessionStore.restore, chat_id)
    await app.actions.open_chat(chat_id)


@command("export", "write this chat to a file: .md to read, .json to import", "[FILE]")
async def export(app: "ChatApp", argument: str) -> None:
    path = Path(argument or file_name(app.chat.title, ".md")).expanduser()
    if path.suffix not in (".md", ".json"):
        app.say(f"{path.name} must end in .md (to read) or .json (all branches, to import).")
        return
    if app.chat.chat_id is None:
        app.say("There is nothing saved to export yet.")
        return
    chat = await app.sessions.call(SessionStore.chat, app.chat.chat_id)
    if path.suffix == ".json":
        text = json_of([(chat, await app.sessions.call(SessionStore.entries, chat.id))])
    else:
        text = markdown_of(chat, [node.entry for node in app.conversation.path()])
    app.say(f"Written to {await asyncio.to_thread(write_new, path, text)}")


@command("export-all", "write all chats to a JSON file", "[FILE]")
async def export_all(app: "ChatApp", argument: str) -> None:
    path = Path(argument or file_name("all chats", ".json")).expanduser()

    def collect(store: SessionStore) -> str:
        return json_of((chat, store.entries(chat.id)) for chat in store.chats(limit=1_000_000))

    text = await app.sessions.call(collect)
    app.say(f"Written to {await asyncio.to_thread(write_new, path, text)}")


@command("import", "add the chats of an exported JSON file", "FILE", idle=True)
async def import_file(app: "ChatApp", argument: str) -> None:
    if not argument:
        app.say("Which file? /import FILE.json")
        return
    ids = await app.sessions.call(import_json, Path(argument).expanduser())
    app.say(f"{len(ids)} chat(s) added.")
    if len(ids) == 1:
        await app.actions.open_chat(ids[0])


async def _open_list(app: "ChatApp", words: str) -> None:
    from tui.screens.chats import ChatsScreen

    if not app.sessions.available:
        try:
            await app.sessions.call(SessionStore.chats)
        except K2Error as error:
            await app.show_error(error)
        return
    chosen = await app.push_screen_wait(ChatsScreen(app.sessions, words, app.deleted_chats))
    if chosen is not None:
        await app.actions.open_chat(chosen.chat_id, chosen.message_id)
    elif app.chat.chat_id in app.deleted_chats:
        await app.actions.new_chat()
