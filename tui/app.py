"""The chat's window: what is on the screen, what the keys do, and who gets to know of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import ClassVar

from textual.app import App, ComposeResult, ScreenStackError, SystemCommand
from textual.binding import BindingType
from textual.containers import Container, Vertical
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Footer, Markdown, Static

from k2lite.events import ExpertReport
from k2lite.safe_text import one_line
from quant.errors import K2Error
from tui import status
from tui.actions import ChatActions
from tui.collector import IdleCollector
from tui.commands import COMMANDS
from tui.commands.registry import offers, split
from tui.completion import mention_at_end, path_offers
from tui.context import ALARM_SHARE, WARNING_SHARE
from tui.conversation import Conversation, Node
from tui.engine_slot import EngineSlot
from tui.experts.panel import ExpertPanel
from tui.history import History
from tui.keys import APP_BINDINGS, checked_keymap
from tui.launch import Launch
from tui.open_chat import OpenChat
from tui.prompt import Offers, Prompt
from tui.sessions.store import SessionStore
from tui.sessions.thread import SessionThread
from tui.tools.box import make_toolbox
from tui.turn import TurnRunner, WhenFull
from tui.views.log import MessageLog
from tui.views.message_view import MessageView
from tui.views.notice import Notice

_SAVE_EVERY_S = 0.4


class ChatApp(App[None]):
    """Loads the engine behind the open screen, then answers one question at a time. Its owner closes the engine."""

    TITLE = "k2lite"
    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = list(APP_BINDINGS)
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide"), (460, "-huge")]  # noqa: RUF012  # as the base class has it

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch
        self.slot = EngineSlot(launch.make_engine, launch.choice)
        self.sessions = SessionThread(launch.database)
        self.chat = OpenChat(self.sessions, launch.settings, self._complain)
        self.toolbox = make_toolbox(launch)
        self.turns = TurnRunner(self, self.slot, self.chat, self.toolbox, launch.tool_rounds)
        self.actions = ChatActions(self)
        self.crash_reports: list[str] = []
        self.deleted_chats: list[int] = []
        self.busy_with = ""
        self._warned_full = False
        self._collector = IdleCollector()
        self.set_keymap(checked_keymap(launch.keys))

    def compose(self) -> ComposeResult:
        yield Static("k2lite", id="title", markup=False)
        with Container(id="body"):
            yield MessageLog()
            yield ExpertPanel()
        list_of_offers = Offers()
        with Vertical(id="bottom"):
            yield list_of_offers
            yield Static(id="queue", markup=False)
            with Container(id="status-line"):
                yield Static(id="status", markup=False)
                yield Static(id="gauge", markup=False)
            yield Prompt(self.actions.send, list_of_offers, History())
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._collector.begin()
        self.theme = self.launch.theme
        self.query_one(Offers).display = False
        self.query_one("#queue").display = False
        self.query_one(ExpertPanel).display = self.launch.experts
        self.prompt.focus()
        self.set_busy("the model is loading")
        self.set_interval(_SAVE_EVERY_S, self._save_and_tidy)
        self.run_worker(self._open())

    def on_unmount(self) -> None:
        self.turns.close()
        self.slot.close()
        self.toolbox.close()
        self.sessions.close()
        self._collector.end()

    # What others ask of the window

    @property
    def prompt(self) -> Prompt:
        return self.query_one(Prompt)

    @property
    def log_view(self) -> MessageLog:
        return self.query_one(MessageLog)

    @property
    def conversation(self) -> Conversation:
        return self.chat.conversation

    @property
    def busy(self) -> bool:
        """Whether the model is loading or an answer is under way."""
        return bool(self.busy_with)

    @property
    def chosen_node(self) -> Node | None:
        """The message that has the focus."""
        return self.focused.node if isinstance(self.focused, MessageView) else None

    def say(self, text: str) -> None:
        """A message in the corner, which goes away by itself."""
        self.notify(text, markup=False)

    @property
    def status_text(self) -> str:
        """The status line as it is now."""
        return str(self.query_one("#status", Static).render())

    def show_status(self, text: str) -> None:
        with suppress(NoMatches, ScreenStackError):  # the app may be closing while a model loads
            self.query_one("#status", Static).update(text)

    def show_context(self, used: int, total: int) -> None:
        """How full the context is; yellow from three quarters on, red when it is nearly full."""
        share = used / total if total else 0.0
        gauge = self.query_one("#gauge", Static)
        gauge.update(status.context_gauge(used, total))
        gauge.set_class(WARNING_SHARE <= share < ALARM_SHARE, "warning")
        gauge.set_class(share >= ALARM_SHARE, "alarm")
        if share >= ALARM_SHARE and not self._warned_full:
            self._warned_full = True
            self.say(
                "The context is nearly full: /compact makes a summary of what was said, /drop leaves the oldest out."
            )
        self._warned_full = self._warned_full and share >= ALARM_SHARE

    def show_report(self, report: ExpertReport) -> None:
        self.query_one(ExpertPanel).take(report)

    async def show_error(self, error: K2Error) -> None:
        """One line here; what else is known (a traceback) is kept for when the screen is closed."""
        self.crash_reports += getattr(error, "__notes__", [])
        await self.log_view.add(Notice(str(error), "error"))

    def show_title(self) -> None:
        """Which model, and which chat."""
        model = status.title(self.slot.info) if self.slot.info is not None else "k2lite"
        self.query_one("#title", Static).update(one_line(f"{model} · {self.chat.title}" if self.chat.title else model))

    def stop_changed(self) -> None:
        with suppress(ScreenStackError):  # the app may be closing in the middle of an answer
            self.refresh_bindings()

    @property
    def is_prompt_empty(self) -> bool:
        return not self.prompt.text

    def focus_prompt(self) -> None:
        self.prompt.focus()

    async def choose_when_full(self, error: K2Error) -> WhenFull:
        from tui.screens.full import FullScreen

        return await self.push_screen_wait(FullScreen(str(error)))

    def set_busy(self, reason: str) -> None:
        self.busy_with = reason
        self.refresh_bindings()

    def _save_and_tidy(self) -> None:
        self.turns.save()
        if self.busy:
            self._collector.active()
        self._collector.look()

    # Loading

    async def _open(self) -> None:
        try:
            notice = await self.sessions.open()
            if notice:
                await self.log_view.add(Notice(notice, "error"))
            if self.sessions.available:
                self.prompt.earlier.load(await self.sessions.call(SessionStore.questions))
                await self._resume()
        except K2Error as error:
            await self.show_error(error)
        await self.load()
        for problem in await self.toolbox.connect():
            await self.show_error(problem)
        self.set_busy("")
        self.actions.send_queued()

    async def _resume(self) -> None:
        wanted = self.launch.resume
        if wanted == "last":
            chats = await self.sessions.call(SessionStore.chats, 1)
            wanted = chats[0].id if chats else None
        if isinstance(wanted, int):
            await self.actions.open_chat(wanted)

    async def load(self) -> bool:
        """Load the model; False when it could not be, which is then on the screen."""
        self.show_status(status.STARTING)
        started = None  # at the first progress: until then the process starts, which says nothing of the model
        try:
            async for progress in self.slot.load():
                started = time.monotonic() if started is None else started
                self.show_status(status.load_status(progress, time.monotonic() - started))
        except K2Error as error:
            await self.show_error(error)
            self.show_status(status.UNLOADED)
            return False
        assert self.slot.info is not None, "loaded"
        self.chat.model = self.slot.info.model_name
        self.show_title()
        self.show_status(status.READY)
        return True

    def _complain(self, error: K2Error) -> None:
        self.run_worker(self.show_error(error))

    # Commands and keys

    def run_command(self, text: str) -> None:
        """Run "/name argument"; an error of it is a line in the log."""
        name, argument = split(text)
        found = COMMANDS.get(name)
        if found is None:
            near = [known for known in COMMANDS if known.startswith(name[:2])]
            self.say(
                f"There is no command /{one_line(name)}. " + (f"Near it: /{', /'.join(near)}" if near else "/help")
            )
            return
        if found.idle and self.busy:
            self.say(f"Not yet: {self.busy_with}.")
            return
        self.run_worker(self._guarded(lambda: found.run(self, argument)))

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except K2Error as error:
            await self.show_error(error)

    def action_command(self, name: str) -> None:
        self.run_command(name)

    def action_escape(self) -> None:
        self.actions.escape()

    def action_choose_message(self) -> None:
        self.actions.choose_message()

    def action_scroll_log(self, pages: int) -> None:
        self.actions.scroll_log(pages)

    def action_copy_or_quit(self) -> None:
        self.actions.copy_or_quit()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        for found in COMMANDS.values():
            yield SystemCommand(
                found.title, f"/{found.name} {found.argument}".strip(), self._palette_runner(found.name)
            )

    def _palette_runner(self, name: str) -> Callable[[], None]:
        def run() -> None:
            if COMMANDS[name].argument and not COMMANDS[name].argument.startswith("["):
                self.prompt.write(f"/{name} ")
                self.prompt.focus()
            else:
                self.run_command(name)

        return run

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What cannot be done now is greyed out."""
        if action == "escape":
            return True if self.turns.stoppable or self.actions.editing or self.focused is not self.prompt else None
        if action == "command" and self.busy and parameters and COMMANDS[str(parameters[0])].idle:
            return None
        return True

    # What widgets report

    async def on_prompt_written(self) -> None:
        self._collector.active()
        text = self.prompt.text
        found = offers(self, text)
        if not found and mention_at_end(text) is not None:
            found = await asyncio.to_thread(path_offers, text)
            if self.prompt.text != text:
                return
        self.query_one(Offers).show(found)

    def on_message_view_chosen(self, event: MessageView.Chosen) -> None:
        event.view.focus()
        self.run_command(event.command)

    def on_message_view_moved(self, event: MessageView.Moved) -> None:
        neighbour = self.log_view.neighbour(event.view, event.step)
        (neighbour or self.prompt if event.step > 0 else neighbour or event.view).focus()

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """Only web pages are opened: a model's link could name any program or file of this machine."""
        if event.href.startswith(("https://", "http://")):
            self.open_url(event.href)
        else:
            self.say(f"Not a web page, not opened: {one_line(event.href)}")
