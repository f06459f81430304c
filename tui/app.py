"""The chat: a conversation on top, a status line, a box to write in. Knows an Engine and nothing behind it."""

import threading
from collections.abc import Iterator
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Markdown, Static, TextArea

from k2lite.events import AnswerEvent, Engine, EngineInfo, Finished, PrefillProgress, Request, Token
from k2lite.safe_text import one_line, printable
from quant.errors import EngineError, K2Error
from tui import status
from tui.answer import Answer
from tui.conversation import ChatSettings, Conversation
from tui.engine_thread import EngineThread
from tui.pacing import Pacer, RateMeter
from tui.prompt import Prompt


class ChatApp(App[None]):
    """Loads the engine behind the open screen, then answers one question at a time. Its owner closes the engine."""

    TITLE = "k2lite"
    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+n", "new_conversation", "New chat"),
        Binding("ctrl+c", "copy_or_quit", "Quit", priority=True, show=False),
    ]

    def __init__(self, engine: Engine, settings: ChatSettings | None = None) -> None:
        super().__init__()
        self.conversation = Conversation(settings or ChatSettings())
        self.crash_reports: list[str] = []
        self._engine = engine
        self._thread = EngineThread()
        self._info: EngineInfo | None = None
        self._busy_with = ""
        self._stop: threading.Event | None = None

    def compose(self) -> ComposeResult:
        yield Static("k2lite", id="title", markup=False)
        yield VerticalScroll(id="log")
        yield Static(id="status", markup=False)
        yield Prompt(self.send)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#log", VerticalScroll).anchor()
        self.query_one(Prompt).focus()
        self._set_busy("the model is loading")
        self.run_worker(self._open())

    @property
    def busy(self) -> bool:
        """Whether the model is loading or an answer is under way."""
        return bool(self._busy_with)

    # What the user does

    def send(self, question: str) -> bool:
        """Ask the engine; False while it is busy."""
        if self._busy_with:
            self.notify(f"Not yet: {self._busy_with}. Your text stays.", markup=False)
            return False
        self._set_busy("an answer is on its way, Esc stops it")
        self.run_worker(self._converse(question))
        return True

    def on_unmount(self) -> None:
        self._thread.close()

    def action_stop(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._show_status("stopping")

    async def action_new_conversation(self) -> None:
        """Start over with an empty context: the way on when it is full."""
        self.conversation.clear()
        await self.query_one("#log", VerticalScroll).remove_children()
        self._show_status(status.READY)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop is greyed out while there is nothing to stop, and a new conversation while something is under way."""
        unavailable = {"stop": self._stop is None, "new_conversation": self.busy}
        return None if unavailable.get(action) else True

    def action_copy_or_quit(self) -> None:
        """Ctrl+C copies what is selected, and leaves when nothing is."""
        focused = self.focused
        selected = self.screen.get_selected_text() or (focused.selected_text if isinstance(focused, TextArea) else "")
        if selected:
            self.copy_to_clipboard(selected)
            self.notify("Copied, if this terminal lets programs write to its clipboard.")
        else:
            self.exit()

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """Only web pages are opened: a model's link could name any program or file of this machine."""
        if event.href.startswith(("https://", "http://")):
            self.open_url(event.href)
        else:
            self.notify(f"Not a web page, not opened: {one_line(event.href)}", markup=False)

    # What the engine does

    async def _open(self) -> None:
        await self._load()
        self._set_busy("")

    async def _load(self) -> bool:
        """Load the model; False when it could not be, which is then on the screen."""
        self._show_status(status.STARTING)
        try:
            async for progress in self._thread.iterate(self._engine.load):
                self._show_status(status.load_status(progress))
        except K2Error as error:
            await self._show_error(error)
            self._show_status(status.UNLOADED)
            return False
        self._info = self._engine.info()
        self.query_one("#title", Static).update(one_line(status.title(self._info)))
        self._show_status(status.READY)
        return True

    async def _converse(self, question: str) -> None:
        """Ask, show the answer, remember both. A question that got no answer goes back into the box."""
        await self._mount(Static(printable(question), markup=False, classes="question"))
        if (self._info is None and not await self._load()) or not await self._answer(question):
            prompt = self.query_one(Prompt)
            prompt.text = prompt.text or question
        self._set_busy("")

    async def _answer(self, question: str) -> bool:
        """Whether there is an answer, or a part of one."""
        assert self._info is not None, "asked before the model was loaded"
        view = Answer()
        await self._mount(view)
        request = self.conversation.ask(question, self._info)
        try:
            finished = await self._stream(request, view, self._info.context_tokens)
        except K2Error as error:
            await view.finish()
            await self._show_error(error)
            if isinstance(error, EngineError):
                self._info = None  # the next question loads the model again
            self._show_status(status.READY if self._info else status.UNLOADED)
            return False
        await view.finish()
        self._show_status(status.finished_status(finished, self._info.context_tokens))
        if finished.reason == "cancelled" and view.is_empty:
            await self._mount(Static("(stopped before the answer began)", classes="note"))
            return False
        self.conversation.answered(question, finished)
        return True

    async def _stream(self, request: Request, view: Answer, context_tokens: int) -> Finished:
        stop = self._stop = threading.Event()
        self.refresh_bindings()
        try:
            return await self._show_events(request, stop, view, context_tokens)
        finally:
            stop.set()  # the app may be closing in the middle of the answer
            self._stop = None

    async def _show_events(
        self, request: Request, stop: threading.Event, view: Answer, context_tokens: int
    ) -> Finished:
        meter, pacer, prompt_tokens = RateMeter(), Pacer(), 0
        finished: Finished | None = None
        async for event in self._thread.iterate(lambda: _metered(self._engine.generate(request, stop), meter)):
            if isinstance(event, PrefillProgress):
                prompt_tokens = event.total_tokens
                self._show_status(status.prefill_status(event))
            elif isinstance(event, Token):
                view.write(event.channel, event.text)
                if pacer.due() and not stop.is_set():
                    pacer.flushed(pacer.now())
                    used = prompt_tokens + meter.count
                    line = status.decode_status(meter.per_second, meter.count, used, context_tokens)
                    self._show_status(f"thinking · {line}" if event.channel == "think" else line)
            elif isinstance(event, Finished):
                finished = event
        assert finished is not None, "an answer ends with Finished or an error"
        return finished

    # What is on the screen

    async def _mount(self, widget: Static | Answer) -> None:
        await self.query_one("#log", VerticalScroll).mount(widget)

    async def _show_error(self, error: K2Error) -> None:
        """One line here; what else is known (a traceback) is kept for when the screen is closed."""
        self.crash_reports += getattr(error, "__notes__", [])
        await self._mount(Static(one_line(str(error)), markup=False, classes="error"))

    def _show_status(self, text: str) -> None:
        self.query_one("#status", Static).update(text)

    def _set_busy(self, reason: str) -> None:
        self._busy_with = reason
        self.refresh_bindings()


def _metered(events: Iterator[AnswerEvent], meter: RateMeter) -> Iterator[AnswerEvent]:
    """The same events, every token counted as it comes."""
    for event in events:
        if isinstance(event, Token) and event.id is not None:
            meter.tick()
        yield event
