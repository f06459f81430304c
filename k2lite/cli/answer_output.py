"""An answer on its way out: its text on stdout, thinking and everything else on stderr."""

import sys
from collections.abc import Callable
from typing import Any, TextIO

from k2lite.events import EngineInfo, ExpertReport, Finished, Token
from k2lite.expert_totals import experts_record
from k2lite.safe_text import printable

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class AnswerOutput:
    """Writes tokens as they come. On a terminal nothing that the model wrote can steer it."""

    def __init__(self, show_thinking: bool) -> None:
        self._show_thinking = show_thinking
        self._aside_open = False
        self._last = "\n"

    def write(self, token: Token) -> None:
        """Show one token of the answer, if it has text that is to be seen."""
        if not token.text:
            return
        if token.channel == "answer":
            self._end_aside()
            self._last = token.text[-1]
            _write(sys.stdout, token.text)
        elif self._show_thinking or token.channel == "tool":
            self._aside_open = True
            _write(sys.stderr, token.text, decorate=_dimmed)

    def end(self) -> None:
        """Leave the cursor at the beginning of a line."""
        self._end_aside()
        if self._last != "\n":
            _write(sys.stdout, "\n")

    def _end_aside(self) -> None:
        if self._aside_open:
            _write(sys.stderr, "\n")
        self._aside_open = False


def _write(stream: TextIO, text: str, decorate: Callable[[str], str] = str) -> None:
    stream.write(decorate(printable(text)) if stream.isatty() else text)
    stream.flush()


def _dimmed(text: str) -> str:
    return f"{_DIM}{text}{_PLAIN}"


def statistics_line(finished: Finished) -> str:
    """What the answer cost, on one line."""
    return (
        f"{finished.completion_tokens} tokens, {finished.decode_tokens_per_s:.2f} tok/s; "
        f"prompt {finished.prompt_tokens} tokens ({finished.cached_tokens} cached), "
        f"{finished.prefill_tokens_per_s:.1f} tok/s; ended by {finished.reason}; seed {finished.seed}"
    )


def answer_record(
    finished: Finished, token_ids: list[int], info: EngineInfo, report: ExpertReport | None = None
) -> dict[str, Any]:
    """The object that `--json` prints. Keys stay as they are; new ones may be added."""
    return {
        "text": finished.text,
        "reasoning": finished.reasoning,
        "tool_calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in finished.tool_calls],
        "token_ids": token_ids,
        "finish_reason": finished.reason,
        "prompt_tokens": finished.prompt_tokens,
        "cached_tokens": finished.cached_tokens,
        "completion_tokens": finished.completion_tokens,
        "prefill_s": finished.prefill_s,
        "decode_s": finished.decode_s,
        "prefill_tokens_per_s": finished.prefill_tokens_per_s,
        "decode_tokens_per_s": finished.decode_tokens_per_s,
        "seed": finished.seed,
        "tiers": finished.tiers,
        "model": info.model_name,
        "quantization": info.quantization,
        "weight_bytes": info.weight_bytes,
        "context_tokens": info.context_tokens,
        "experts": None if report is None else experts_record(report),
    }
