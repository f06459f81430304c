"""What the user can do in the chat: ask, edit, switch, copy."""

import asyncio
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported
from textual.widgets import Static, TextArea

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
    """Acts on the window. `editing` is the earlier question that is in the box, `queue` what waits to be asked."""

    def __init__(self, app: "ChatApp") -> None:
        self._app = app
        self.editing: Node | None = None
        self.queue: list[str] = []

    def send(self, text: str) -> bool:
        """Ask, or run a command. While something is under way the question waits in the queue."""
        if text.startswith("/") and not text.startswith("//"):
            self._app.run_command(text)
            return True
        if self._app.busy:
            self.queue.append(text)
            self._show_queue()
            return True
        self._app.set_busy(_AN_ANSWER)
        self._app.run_worker(self._converse(text.removeprefix("/") if text.startswith("//") else text))
        return True

    def send_queued(self) -> None:
        """Ask what has been waiting longest."""
        if self.queue and not self._app.busy:
            text = self.queue.pop(0)
            self._show_queue()
            self.send(text)

    def unqueue(self) -> None:
        """What waits goes back into the box: the answer it was to follow did not come as expected."""
        if self.queue:
            self._app.prompt.write(
                "\n\n".join([*self.queue, *([self._app.prompt.text] if self._app.prompt.text else [])])
            )
            self.queue.clear()
            self._show_queue()

    def _show_queue(self) -> None:
        line = self._app.query_one("#queue", Static)
        line.update("\n".join(f"next: {one_line(text)[:200]}" for text in self.queue))
        line.display = bool(self.queue)

    async def _converse(self, typed: str) -> None:
        """Ask, show the answer, remember both. A question that got no answer goes back into the box."""
        edited, self.editing = self.editing, None
        self._show_editing()
        try:
            attached = await asyncio.to_thread(attach, typed)
        except AttachmentError as error:
            await self._app.show_error(error)
            self._give_back(typed, edited)
            return
        parent = None
        if edited is not None and edited.parent is not None:
            parent = edited.parent
            self._app.conversation.end_at(parent)
            await self._app.log_view.show_branch(self._app.conversation.path())
        extra: dict[str, object] = {"shown": typed, "attached": attached.files} if attached.files else {}
        if self._app.slot.info is None and not await self._app.load():
            answered = False
        else:
            answered = await self._app.turns.ask(Asked(attached.content, extra), parent)
        if edited is not None and not answered:
            await self._show_again(edited)
        self._app.show_title()
        if not answered:
            self._give_back(typed, edited)
            return
        self._app.set_busy("")
        if self._app.conversation.tip.entry.finish in ("cancelled", "error"):
            self.unqueue()
        self.send_queued()

    def _give_back(self, typed: str, edited: Node | None) -> None:
        self._app.set_busy("")
        self.unqueue()
        if not self._app.prompt.text:
            self._app.prompt.write(typed)
            self.editing = edited
            self._show_editing()

    async def ask_again(self, question: Node) -> None:
        """Another answer to `question`, beside those that are there."""
        self._app.set_busy(_AN_ANSWER)
        shown_before = self._app.conversation.tip
        self._app.conversation.end_at(question)
        await self._app.log_view.show_branch(self._app.conversation.path())
        try:
            answered = (self._app.slot.info is not None or await self._app.load()) and await self._app.turns.answer()
        except K2Error as error:
            await self._app.show_error(error)
            answered = False
        if not answered:
            await self._show_again(shown_before)
        self._app.set_busy("")
        self.send_queued()

    def begin_edit(self, node: Node) -> None:
        """Put an earlier question into the box; sending it makes a branch."""
        self.editing = node
        self._app.prompt.write(node.typed)
        self._app.prompt.focus()
        self._show_editing()

    def _show_editing(self) -> None:
        self._app.prompt.border_title = (
            "editing an earlier question: Enter asks it as a branch, Esc leaves it" if self.editing else ""
        )
        self._app.refresh_bindings()

    async def show_node(self, node: Node) -> None:
        """Show the branch through `node`, and choose it."""
        await self._app.chat.show(node)
        await self._app.log_view.show_branch(self._app.conversation.path())
        view = self._app.log_view.view(node)
        if view is not None and self._app.focused is not self._app.prompt:
            view.focus()

    async def _show_again(self, node: Node) -> None:
        """What was tried has failed: the branch of before."""
        await self._app.chat.show(node)
        await self._app.log_view.show_branch_and_news(self._app.conversation.path())

    async def new_chat(self) -> None:
        """Start over with an empty context: the way on when it is full."""
        self._app.chat.start_anew()
        self._app.toolbox.new_chat()
        self.editing = None
        self._show_editing()
        await self._app.log_view.show_branch([])
        await self._app.log_view.remove_children()
        self._app.query_one("#gauge", Static).update("")
        self._app.show_title()
        self._app.show_status(status.READY if self._app.slot.info else status.UNLOADED)
        self._app.prompt.focus()

    async def open_chat(self, chat_id: int, message_id: int | None = None) -> None:
        """Go on with a saved chat; at one of its messages when that is what was searched for."""
        await self._app.chat.resume(chat_id)
        self._app.toolbox.new_chat()
        await self._app.log_view.remove_children()
        self._app.show_title()
        if message_id is not None:
            node = self._app.conversation.by_row(message_id)
            if node is not None:
                self._app.conversation.show(node)
                await self._app.log_view.show_branch(self._app.conversation.path(), around=node)
                view = self._app.log_view.view(node)
                if view is not None:
                    view.focus()
                return
        await self._app.log_view.show_branch(self._app.conversation.path())
        self._app.prompt.focus()

    async def apply_settings(self, settings: ChatSettings) -> None:
        """From the next answer on. Says what of it has no effect."""
        fields = ("system", "thinking", "max_tokens", "seed", "sampling")
        await self._app.chat.change_settings(**{name: getattr(settings, name) for name in fields})
        notes = without_effect(settings, self._app.slot.info)
        self._app.say("\n".join(["These settings hold from the next answer on.", *notes]))

    async def change_model(self, choice: ModelChoice) -> None:
        """Give the loaded model up for another one; the conversation stays."""
        self._app.set_busy("the model is loading")
        self._app.show_status(status.STARTING)
        await self._app.slot.change(choice)
        self._app.query_one(ExpertPanel).clear()
        await self._app.load()
        self._app.set_busy("")
        self.send_queued()

    async def make_room(self, choice: WhenFull) -> None:
        if not self._app.conversation.path() or self._app.slot.info is None:
            self._app.say("There is nothing to leave out yet.")
            return
        self._app.set_busy("room is being made")
        done = await self._app.turns.make_room(choice)
        self._app.set_busy("")
        if not done:
            self._app.say("Nothing was left out.")
        self.send_queued()

    def toggle_experts(self) -> None:
        self._app.query_one(ExpertPanel).toggle()

    def stop(self) -> None:
        if self._app.turns.stoppable:
            self._app.turns.stop()
            self._app.show_status(status.STOPPING)

    def escape(self) -> None:
        """Stops what runs; else leaves an edit; else goes back to the prompt."""
        if self._app.turns.stoppable:
            self.stop()
        elif self.editing is not None:
            self.editing = None
            self._app.prompt.clear()
            self._show_editing()
        self._app.prompt.focus()

    def choose_message(self) -> None:
        view = self._app.log_view.neighbour(None, 0)
        if view is not None:
            view.focus()

    def scroll_log(self, pages: int) -> None:
        (self._app.log_view.scroll_page_down if pages > 0 else self._app.log_view.scroll_page_up)(animate=False)

    def copy_or_quit(self) -> None:
        """Ctrl+C copies what is selected, and leaves when nothing is."""
        focused = self._app.focused
        selected = self._app.screen.get_selected_text() or (
            focused.selected_text if isinstance(focused, TextArea) else ""
        )
        if selected:
            self._app.run_worker(self.copy(selected, "the selection"))
        else:
            self._app.exit()

    async def copy(self, text: str, what: str) -> None:
        """To the clipboard; says which way it went."""
        tool = "" if self._app.is_web else await copy_with_tool(text)
        if tool:
            self._app.say(f"Copied {what} with {tool}.")
            return
        self._app.copy_to_clipboard(text)
        self._app.say(f"Copied {what}: {terminal_way()}.")

    def edit_outside(self) -> None:
        """Write the prompt in the user's editor. The screen waits for it."""
        command = editor_command()
        if not command:
            self._app.say("No editor is set: export EDITOR=nano, or another one.")
            return
        with tempfile.TemporaryDirectory(prefix="k2lite-") as folder:
            path = Path(folder) / "prompt.md"
            path.write_text(self._app.prompt.text, encoding="utf-8", errors="replace")
            try:
                with self._app.suspend():
                    done = subprocess.run([*command, str(path)], check=False).returncode == 0
            except SuspendNotSupported:
                self._app.say("There is no editor here: this screen is no terminal.")
                return
            except OSError as error:
                self._app.say(f"{command[0]} could not be started: {error.strerror}")
                return
            if done:
                self._app.prompt.write(path.read_text(encoding="utf-8", errors="replace").rstrip("\n"))
