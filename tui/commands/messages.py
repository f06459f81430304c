"""Commands about single messages: edit, ask again, other branches, copy, go on."""

from typing import TYPE_CHECKING, TypeVar

from textual.widgets import Collapsible

from tui.code_blocks import code_blocks
from tui.commands.registry import command
from tui.conversation import Node

if TYPE_CHECKING:
    from tui.app import ChatApp

Item = TypeVar("Item")

CONTINUE = "Continue exactly where you stopped."


@command("edit", "edit an earlier question; what followed it stays as a branch", "[NUMBER]", idle=True)
async def edit(app: "ChatApp", argument: str) -> None:
    questions = [node for node in app.conversation.path() if node.message.role == "user"]
    if argument:
        node = _numbered(app, questions, argument, "questions")
    else:
        chosen = app.chosen_node
        node = (
            chosen if chosen is not None and chosen.message.role == "user" else (questions[-1] if questions else None)
        )
    if node is None:
        app.say("There is no question to edit.")
        return
    app.actions.begin_edit(node)


@command("retry", "ask again: another answer beside this one", idle=True)
async def retry(app: "ChatApp", argument: str) -> None:
    path = app.conversation.path()
    node = app.chosen_node if app.chosen_node in path else None
    place = len(path) if node is None else path.index(node) + 1
    questions = [
        number
        for number in range(place)
        if path[number].message.role == "user" and path[number].entry.kind == "message"
    ]
    if not questions:
        app.say("There is nothing to ask again.")
        return
    await app.actions.ask_again(path[questions[-1]])


@command("continue", "let a stopped answer go on", idle=True)
async def continue_answer(app: "ChatApp", argument: str) -> None:
    tip = app.conversation.tip
    if tip.message.role != "assistant":
        app.say("There is no answer that could go on.")
        return
    app.actions.send(CONTINUE)


@command("branch", "show another branch at this message", "next|previous", lambda app: ["next", "previous"], idle=True)
async def branch(app: "ChatApp", argument: str) -> None:
    step = -1 if argument.startswith("p") else 1
    path = app.conversation.path()
    chosen = app.chosen_node
    forks = [node for node in path if len(node.siblings) > 1]
    node = chosen if chosen in forks else (forks[-1] if forks else None)
    if node is None:
        app.say("There is only one branch: edit a question or ask again to make another.")
        return
    place = (node.siblings.index(node) + step) % len(node.siblings)
    await app.actions.show_node(node.siblings[place])


@command("copy", "copy this message, else the last answer")
async def copy(app: "ChatApp", argument: str) -> None:
    node = app.chosen_node or _last_answer(app)
    if node is None:
        app.say("There is nothing to copy.")
        return
    await app.actions.copy(node.typed if node.message.role == "user" else node.message.content, "the message")


@command("code", "copy a code block of this answer; the last one, or by number", "[NUMBER]")
async def code(app: "ChatApp", argument: str) -> None:
    node = app.chosen_node or _last_answer(app)
    blocks = code_blocks(node.message.content) if node is not None else []
    if not blocks:
        app.say("There is no code block in this answer.")
        return
    block = _numbered(app, blocks, argument, "code blocks") if argument else blocks[-1]
    if block is not None:
        await app.actions.copy(block, f"code block {blocks.index(block) + 1} of {len(blocks)}")


@command("think", "fold or unfold the thinking of all answers shown")
async def think(app: "ChatApp", argument: str) -> None:
    folds = [fold for fold in app.query("#think").results(Collapsible) if fold.has_class("used")]
    unfold = any(fold.collapsed for fold in folds)
    for fold in folds:
        fold.collapsed = not unfold
    if not folds:
        app.say("No answer here has thinking to it.")


@command("stop", "stop the answer and keep what is there")
async def stop(app: "ChatApp", argument: str) -> None:
    app.actions.stop()


@command("editor", "write the prompt in your editor")
async def editor(app: "ChatApp", argument: str) -> None:
    app.actions.edit_outside()


def _last_answer(app: "ChatApp") -> Node | None:
    answers = [node for node in app.conversation.path() if node.message.role == "assistant"]
    return answers[-1] if answers else None


def _numbered(app: "ChatApp", items: list[Item], argument: str, what: str) -> Item | None:
    if argument.isdecimal() and 1 <= int(argument) <= len(items):
        return items[int(argument) - 1]
    app.say(f"{argument} is none of the {len(items)} {what} here.")
    return None
