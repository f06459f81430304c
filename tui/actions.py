"""What the user can do in the chat: ask, edit, switch, copy. The window mixes this in and is what it acts on."""

import asyncio
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported
from textual.widgets import TextArea

from k2lite.environment import editor_command
from k2lite.safe_text import one_line
from quant.errors import K2Error
from tui import status
from tui.attachments import attach
from tui.clipboard import copy_with_tool, terminal_way
from tui.conversation import ChatSettings, Node
from tui.engine_slot import ModelChoice
from tui.errors import AttachmentError
from tui.experts.panel import ExpertPanel
from tui.setting_values import without_effect
from tui.turn import Asked, WhenFull

if TYPE_CHECKING:
    from tui.app import ChatApp

_AN_ANSWER = "an answer is on its way, Esc stops it"


class ChatActions:
    """Half of ChatApp: `self` is always one."""

    def send(self: "ChatApp", text: str) -> bool:  # type: ignore[misc]
        """Ask, or run a command. While something is under way the question waits in the queue."""
        if text.startswith("/") and not text.startswith("//"):
            self.run_command(text)
            return True
        if self.busy:
            self.queue.append(text)
            self._show_queue()
            return True
        self.set_busy(_AN_ANSWER)
        self.run_worker(self._converse(text.removeprefix("/") if text.startswith("//") else text))
        return True

    def send_queued(self: "ChatApp") -> None:  # type: ignore[misc]
        """Ask what has been waiting longest."""
        if self.queue and not self.busy:
            text = self.queue.pop(0)
            self._show_queue()
            self.send(text)

    def unqueue(self: "ChatApp") -> None:  # type: ignore[misc]
        """What waits goes back into the box: the answer it was to follow did not come as expected."""
        if self.queue:
            self.prompt.write("\n\n".join([*self.queue, *([self.prompt.text] if self.prompt.text else [])]))
            self.queue.clear()
            self._show_queue()

    def _show_queue(self: "ChatApp") -> None:  # type: ignore[misc]
        line = self.query_one("#queue")
        line.update("\n".join(f"next: {one_line(text)[:200]}" for text in self.queue))  # type: ignore[attr-defined]
        line.display = bool(self.queue)

    async def _converse(self: "ChatApp", typed: str) -> None:  # type: ignore[misc]
        """Ask, show the answer, remember both. A question that got no answer goes back into the box."""
        edited, self.editing = self.editing, None
        self._show_editing()
        try:
            attached = await asyncio.to_thread(attach, typed)
        except AttachmentError as error:
            await self.show_error(error)
            self._give_back(typed, edited)
            return
        parent = None
        if edited is not None and edited.parent is not None:
            parent = edited.parent
            self.conversation.end_at(parent)
            await self.log_view.show_branch(self.conversation.path())
        extra: dict[str, object] = {"shown": typed, "attached": attached.files} if attached.files else {}
        if self.slot.info is None and not await self.load():
            answered = False
        else:
            answered = await self.turns.ask(Asked(attached.content, extra), parent)
        if edited is not None and not answered:
            await self._show_again(edited)
        self.show_title()
        if not answered:
            self._give_back(typed, edited)
            return
        self.set_busy("")
        if self.conversation.tip.entry.finish in ("cancelled", "error"):
            self.unqueue()
        self.send_queued()

    def _give_back(self: "ChatApp", typed: str, edited: Node | None) -> None:  # type: ignore[misc]
        self.set_busy("")
        self.unqueue()
        if not self.prompt.text:
            self.prompt.write(typed)
            self.editing = edited
            self._show_editing()

    async def ask_again(self: "ChatApp", question: Node) -> None:  # type: ignore[misc]
        """Another answer to `question`, beside those that are there."""
        self.set_busy(_AN_ANSWER)
        shown_before = self.conversation.tip
        self.conversation.end_at(question)
        await self.log_view.show_branch(self.conversation.path())
        try:
            answered = (self.slot.info is not None or await self.load()) and await self.turns.answer()
        except K2Error as error:
            await self.show_error(error)
            answered = False
        if not answered:
            await self._show_again(shown_before)
        self.set_busy("")
        self.send_queued()

    def begin_edit(self: "ChatApp", node: Node) -> None:  # type: ignore[misc]
        """Put an earlier question into the box; sending it makes a branch."""
        self.editing = node
        self.prompt.write(node.typed)
        self.prompt.focus()
        self._show_editing()

    def _show_editing(self: "ChatApp") -> None:  # type: ignore[misc]
        self.prompt.border_title = (
            "editing an earlier question: Enter asks it as a branch, Esc leaves it" if self.editing else ""
        )
        self.refresh_bindings()

    async def show_node(self: "ChatApp", node: Node) -> None:  # type: ignore[misc]
        """Show the branch through `node`, and choose it."""
        await self.chat.show(node)
        await self.log_view.show_branch(self.conversation.path())
        view = self.log_view.view(node)
        if view is not None and self.focused is not self.prompt:
            view.focus()

    async def _show_again(self: "ChatApp", node: Node) -> None:  # type: ignore[misc]
        """What was tried has failed: the branch of before."""
        await self.chat.show(node)
        await self.log_view.show_branch_and_news(self.conversation.path())

    async def new_chat(self: "ChatApp") -> None:  # type: ignore[misc]
        """Start over with an empty context: the way on when it is full."""
        self.chat.start_anew()
        self.toolbox.new_chat()
        self.editing = None
        self._show_editing()
        await self.log_view.show_branch([])
        await self.log_view.remove_children()
        self.query_one("#gauge").update("")  # type: ignore[attr-defined]
        self.show_title()
        self.show_status(status.READY if self.slot.info else status.UNLOADED)
        self.prompt.focus()

    async def open_chat(self: "ChatApp", chat_id: int, message_id: int | None = None) -> None:  # type: ignore[misc]
        """Go on with a saved chat; at one of its messages when that is what was searched for."""
        await self.chat.resume(chat_id)
        self.toolbox.new_chat()
        await self.log_view.remove_children()
        self.show_title()
        if message_id is not None:
            node = self.conversation.by_row(message_id)
            if node is not None:
                self.conversation.show(node)
                await self.log_view.show_branch(self.conversation.path(), around=node)
                view = self.log_view.view(node)
                if view is not None:
                    view.focus()
                return
        await self.log_view.show_branch(self.conversation.path())
        self.prompt.focus()

    async def apply_settings(self: "ChatApp", settings: ChatSettings) -> None:  # type: ignore[misc]
        """From the next answer on. Says what of it has no effect."""
        fields = ("system", "thinking", "max_tokens", "seed", "sampling")
        await self.chat.change_settings(**{name: getattr(settings, name) for name in fields})
        notes = without_effect(settings, self.slot.info)
        self.say("\n".join(["These settings hold from the next answer on.", *notes]))

    async def change_model(self: "ChatApp", choice: ModelChoice) -> None:  # type: ignore[misc]
        """Give the loaded model up for another one; the conversation stays."""
        self.set_busy("the model is loading")
        self.show_status(status.STARTING)
        await self.slot.change(choice)
        self.query_one(ExpertPanel).clear()
        await self.load()
        self.set_busy("")
        self.send_queued()

    async def make_room(self: "ChatApp", choice: WhenFull) -> None:  # type: ignore[misc]
        if not self.conversation.path() or self.slot.info is None:
            self.say("There is nothing to leave out yet.")
            return
        self.set_busy("room is being made")
        done = await self.turns.make_room(choice)
        self.set_busy("")
        if not done:
            self.say("Nothing was left out.")
        self.send_queued()

    def toggle_experts(self: "ChatApp") -> None:  # type: ignore[misc]
        self.query_one(ExpertPanel).toggle()

    def stop(self: "ChatApp") -> None:  # type: ignore[misc]
        if self.turns.stoppable:
            self.turns.stop()
            self.show_status(status.STOPPING)

    def action_escape(self: "ChatApp") -> None:  # type: ignore[misc]
        """Stops what runs; else leaves an edit; else goes back to the prompt."""
        if self.turns.stoppable:
            self.stop()
        elif self.editing is not None:
            self.editing = None
            self.prompt.clear()
            self._show_editing()
        self.prompt.focus()

    def action_choose_message(self: "ChatApp") -> None:  # type: ignore[misc]
        view = self.log_view.neighbour(None, 0)
        if view is not None:
            view.focus()

    def action_scroll_log(self: "ChatApp", pages: int) -> None:  # type: ignore[misc]
        (self.log_view.scroll_page_down if pages > 0 else self.log_view.scroll_page_up)(animate=False)

    def action_copy_or_quit(self: "ChatApp") -> None:  # type: ignore[misc]
        """Ctrl+C copies what is selected, and leaves when nothing is."""
        focused = self.focused
        selected = self.screen.get_selected_text() or (focused.selected_text if isinstance(focused, TextArea) else "")
        if selected:
            self.run_worker(self.copy(selected, "the selection"))
        else:
            self.exit()

    async def copy(self: "ChatApp", text: str, what: str) -> None:  # type: ignore[misc]
        """To the clipboard; says which way it went."""
        tool = "" if self.is_web else await copy_with_tool(text)
        if tool:
            self.say(f"Copied {what} with {tool}.")
            return
        self.copy_to_clipboard(text)
        self.say(f"Copied {what}: {terminal_way()}.")

    def edit_outside(self: "ChatApp") -> None:  # type: ignore[misc]
        """Write the prompt in the user's editor. The screen waits for it."""
        command = editor_command()
        if not command:
            self.say("No editor is set: export EDITOR=nano, or another one.")
            return
        with tempfile.TemporaryDirectory(prefix="k2lite-") as folder:
            path = Path(folder) / "prompt.md"
            path.write_text(self.prompt.text, encoding="utf-8", errors="replace")
            try:
                with self.suspend():
                    done = subprocess.run([*command, str(path)], check=False).returncode == 0
            except SuspendNotSupported:
                self.say("There is no editor here: this screen is no terminal.")
                return
            except OSError as error:
                self.say(f"{command[0]} could not be started: {error.strerror}")
                return
            if done:
                self.prompt.write(path.read_text(encoding="utf-8", errors="replace").rstrip("\n"))
