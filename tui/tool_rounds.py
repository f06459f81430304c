"""The tools that an answer asks for: each one is shown, allowed or not, run, and its result added."""

import asyncio
import threading
from typing import TYPE_CHECKING

from k2lite.events import Message, ToolCall
from tui.conversation import Node
from tui.open_chat import OpenChat
from tui.sessions.records import Entry
from tui.tools.tool import Toolbox
from tui.views.notice import Notice
from tui.views.tool_block import ToolBlock

if TYPE_CHECKING:
    from tui.turn import TurnScreen

DEFAULT_MAX_ROUNDS = 8

_DENIED = "error: the user did not allow this call"
_STOPPED = "error: the user stopped before this was run"


class ToolRounds:
    """Counts the rounds of a turn, so that a model that calls and calls comes to an end."""

    def __init__(self, screen: "TurnScreen", chat: OpenChat, toolbox: Toolbox, max_rounds: int) -> None:
        self._screen, self._chat, self._toolbox = screen, chat, toolbox
        self._max_rounds = max_rounds
        self._round = 0
        self._closing = False
        self._waiting: asyncio.Task[object] | None = None

    @property
    def status(self) -> str:
        """As in " · tools 2/8"; "" before the first round."""
        return f" · tools {self._round}/{self._max_rounds}" if self._round else ""

    def reset(self) -> None:
        """The next turn begins to count anew."""
        self._round = 0

    def stop(self) -> None:
        """End what is waited for, be it the user or a tool."""
        if self._waiting is not None:
            self._waiting.cancel()

    def close(self) -> None:
        """The app is closing: whatever is waited for ends the turn, and nothing is shown any more."""
        self._closing = True

    async def run(self, answer: Node, stop: threading.Event) -> bool:
        """Run the calls of an answer, one after the other; False when the turn ends with that."""
        self._round += 1
        over = self._round > self._max_rounds
        if over:
            text = f"{self._max_rounds} rounds of tools are the limit (--tool-rounds): the next message goes on"
            await self._screen.log_view.add(Notice(text))
        for call in answer.message.tool_calls:
            block = ToolBlock(call)
            await self._screen.log_view.add(block)
            result = _STOPPED if over or stop.is_set() else await self._result(call, block, stop)
            message = Message("tool", result, tool_call_id=call.id, name=call.name)
            block.node = await self._chat.add(Entry(message))
            block.show_result(result)
        return not over and not stop.is_set()

    async def _result(self, call: ToolCall, block: ToolBlock, stop: threading.Event) -> str:
        task = self._waiting = asyncio.ensure_future(self._decide_and_run(call, block))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._closing or not stop.is_set():
                task.cancel()
                raise
            return _STOPPED
        finally:
            self._waiting = None

    async def _decide_and_run(self, call: ToolCall, block: ToolBlock) -> str:
        if not self._toolbox.may_run(call.name):
            self._screen.show_status(f"the model wants to use {call.name}: y once, a always, n not{self.status}")
            # Whoever is writing goes on writing, and chooses the block when he is done: no letter of his runs a tool.
            decision = await block.decision(take_focus=self._screen.is_prompt_empty)
            self._screen.focus_prompt()
            if decision == "no":
                return _DENIED
            if decision == "always":
                self._toolbox.allowed_here.add(call.name)
        block.show_state("running …")
        self._screen.show_status(f"running {call.name}{self.status}")
        return await self._toolbox.run(call)
