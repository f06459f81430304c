"""One turn of the conversation: a question, its answer, and the tools that the answer asks for."""

import threading
from dataclasses import dataclass
from typing import Literal, Protocol

from k2lite.events import ExpertReport, Finished, Message, PrefillProgress, Request, Token
from quant.errors import ContextFullError, EngineError, K2Error
from tui import status
from tui.context import characters_per_token, kept_messages, summary_request
from tui.conversation import Node
from tui.engine_slot import EngineSlot
from tui.live_answer import LiveAnswer
from tui.open_chat import OpenChat
from tui.pacing import Pacer, RateMeter
from tui.sessions.records import Entry
from tui.tool_rounds import ToolRounds
from tui.tools.tool import Toolbox
from tui.views.answer import Answer
from tui.views.log import MessageLog
from tui.views.notice import Cut, Notice
from tui.views.question import Question

WhenFull = Literal["summarise", "drop", "stop"]


class TurnScreen(Protocol):
    """What a turn needs of the screen it plays on."""

    @property
    def log_view(self) -> MessageLog: ...
    def show_status(self, text: str) -> None: ...
    def show_context(self, used: int, total: int) -> None: ...
    def show_report(self, report: ExpertReport) -> None: ...
    async def show_error(self, error: K2Error) -> None: ...
    async def choose_when_full(self, error: K2Error) -> WhenFull: ...
    def stop_changed(self) -> None: ...
    def focus_prompt(self) -> None: ...
    @property
    def is_prompt_empty(self) -> bool: ...


@dataclass(frozen=True)
class Asked:
    """A question as it is sent, and what of it was typed and attached."""

    content: str
    extra: dict[str, object]


class TurnRunner:
    """Runs one turn at a time. `stop` ends whatever is under way and keeps what has come of it."""

    def __init__(self, screen: TurnScreen, slot: EngineSlot, chat: OpenChat, toolbox: Toolbox, max_rounds: int) -> None:
        self._screen, self._slot, self._chat = screen, slot, chat
        self._rounds = ToolRounds(screen, chat, toolbox, max_rounds)
        self._toolbox = toolbox
        self._stop: threading.Event | None = None
        self._live: LiveAnswer | None = None

    @property
    def stoppable(self) -> bool:
        """Whether there is anything to stop."""
        return self._stop is not None

    def stop(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._rounds.stop()

    def close(self) -> None:
        """The app is closing: save what has come, and let the engine stop."""
        self._rounds.close()
        self.save()
        if self._stop is not None:
            self._stop.set()

    def save(self) -> None:
        """Save what has come of the answer under way. Cheap when there is nothing new."""
        if self._live is not None:
            self._live.save()

    async def ask(self, asked: Asked, parent: Node | None = None) -> bool:
        """Ask behind `parent` (None: at the end). False when no answer came: the question is taken back then."""
        shortened = False
        while True:
            question = await self._chat.add(Entry(Message("user", asked.content), extra=asked.extra), parent)
            await self._screen.log_view.add(Question(question))
            try:
                answered = await self.answer()
            except ContextFullError as error:
                await self._take_back(question)
                shortened = not shortened and await self._make_room(error)
                if not shortened:
                    await self._screen.show_error(error)
                    return False
                parent = None
                continue
            if not answered:
                await self._take_back(question)
            return answered

    async def answer(self) -> bool:
        """Answer the end of the conversation, tools included; False when nothing came. Raises ContextFullError."""
        stop = self._stop = threading.Event()
        self._screen.stop_changed()
        try:
            node = await self._stream_answer(stop)
            if node is None:
                return False
            while node is not None and node.message.tool_calls and not stop.is_set():
                if not await self._rounds.run(node, stop):
                    self._screen.show_status(status.READY)
                    break
                node = await self._stream_answer(stop)
            return True
        finally:
            stop.set()  # the app may be closing in the middle of the answer
            self._stop = None
            self._rounds.reset()
            self._screen.stop_changed()

    async def make_room(self, choice: WhenFull) -> bool:
        """Leave out the older messages from now on, with a summary in their place or without; False if that failed."""
        info, conversation = self._slot.info, self._chat.conversation
        if choice == "stop" or info is None:
            return False
        path = conversation.path()
        per_token = characters_per_token(path, conversation)
        kept = kept_messages(path, info.context_tokens, per_token)
        summary = ""
        if choice == "summarise":
            request = summary_request(conversation, path, info, per_token)
            summary = await self._summary(request)
            if not summary:
                return False
        cut = await self._chat.add(Entry(Message("system", summary), kind="cut", extra={"kept": kept}))
        await self._screen.log_view.add(Cut(cut))
        self._screen.show_status(status.READY)
        return True

    async def _make_room(self, error: K2Error) -> bool:
        return await self.make_room(await self._screen.choose_when_full(error))

    async def _summary(self, request: Request) -> str:
        stop = self._stop = threading.Event()
        self._screen.stop_changed()
        meter = RateMeter()
        text = ""
        try:
            async for event in self._slot.answer(request, stop, meter):
                if isinstance(event, Token):
                    self._screen.show_status(f"summarising what was said · {meter.count} tok")
                elif isinstance(event, Finished):
                    text = "" if event.reason == "cancelled" else event.text.strip()
        except K2Error as error:
            await self._failed(error)
        finally:
            stop.set()
            self._stop = None
            self._screen.stop_changed()
        return text

    async def _take_back(self, question: Node) -> None:
        view = self._screen.log_view.view(question)
        await self._chat.remove(question)
        if view is not None:
            await view.remove()

    async def _stream_answer(self, stop: threading.Event) -> Node | None:
        """One answer of the engine, kept and shown. None when it came to nothing. Raises ContextFullError."""
        info = self._slot.info
        assert info is not None, "asked before the model was loaded"
        view = Answer()
        await self._screen.log_view.add(view)
        live = self._live = LiveAnswer(self._chat, view)
        request = self._chat.conversation.request(info, self._toolbox.declarations)
        try:
            finished = await self._show_events(request, stop, live, info.context_tokens)
        except K2Error as error:
            self._live = None
            node = await live.fail()
            await (view.finish("error") if node is not None else view.remove())
            if isinstance(error, ContextFullError) and node is None:
                raise
            await self._failed(error)
            return node
        self._live = None
        node = await live.finish(finished)
        used = finished.prompt_tokens + finished.completion_tokens
        self._screen.show_context(used, info.context_tokens)
        self._screen.show_status(status.finished_status(finished, live.first_token_s))
        if node is None:
            await view.remove()
            if finished.reason == "cancelled":
                await self._screen.log_view.add(Notice("(stopped before the answer began)"))
            return None
        await view.finish(finished.reason)
        view.refresh_branches()
        return node

    async def _failed(self, error: K2Error) -> None:
        if isinstance(error, EngineError):
            self._slot.lost()  # the next question loads the model again
        await self._screen.show_error(error)
        self._screen.show_status(status.READY if self._slot.info else status.UNLOADED)

    async def _show_events(
        self, request: Request, stop: threading.Event, live: LiveAnswer, context_tokens: int
    ) -> Finished:
        pacer = Pacer()
        finished: Finished | None = None
        async for event in self._slot.answer(request, stop, live.meter):
            if isinstance(event, Token):
                await live.take(event)
                if pacer.due() and not stop.is_set():
                    pacer.flushed(pacer.now())
                    line = status.decode_status(live.meter.per_second, live.meter.count, live.first_token_s)
                    rounds = self._rounds.status
                    self._screen.show_status(("thinking · " if event.channel == "think" else "") + line + rounds)
                    self._screen.show_context(live.used_tokens, context_tokens)
            elif isinstance(event, PrefillProgress):
                live.prompt_tokens = event.total_tokens
                self._screen.show_status(status.prefill_status(event))
            elif isinstance(event, ExpertReport):
                self._screen.show_report(event)
            elif isinstance(event, Finished):
                finished = event
            # anything else is news that this screen does not know yet
        if finished is None:
            raise EngineError("the engine ended its answer without saying how: the next message goes on")
        return finished
