"""One answer: the prompt in chunks, then token after token, until it ends, is stopped or has no room left."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from k2lite.events import (
    SEED_LIMIT,
    AnswerEvent,
    Channel,
    ExpertReport,
    Finished,
    FinishReason,
    PrefillProgress,
    Request,
    Token,
)
from k2lite.expert_report import ReportClock
from k2lite.prefix_cache import PrefixCache
from k2lite.prompt import render_prompt
from k2lite.sampling import REPEAT_WINDOW_TOKENS, sample
from offload.state import Stopped
from quant.errors import ContextFullError, RequestError

if TYPE_CHECKING:
    from k2lite.load import LoadedModel


class Generation:
    """The state of one answer; `events` is iterated once. Times leave out what the caller does between events."""

    def __init__(
        self,
        loaded: "LoadedModel",
        cache: PrefixCache,
        request: Request,
        stop: threading.Event,
        chunk_tokens: int,
    ) -> None:
        prompt = render_prompt(request, loaded)
        self._ids, self._parser = prompt.ids, prompt.parser
        self._limit = completion_limit(len(self._ids), cache.capacity, request.max_tokens)
        self._sampling = request.sampling or loaded.info.sampling_for(request.thinking)
        self._seed = checked_seed(request.seed)
        self._generator = torch.Generator().manual_seed(self._seed)
        self._stop_ids = loaded.tokenizer.stop_ids
        self._cache, self._stop, self._chunk_tokens = cache, stop, chunk_tokens
        self._recent = deque(self._ids, maxlen=REPEAT_WINDOW_TOKENS)
        self._channel: Channel = "answer"
        self._cached_tokens = self._completion_tokens = 0
        self._prefill_s = self._decode_s = 0.0
        self._model = loaded.model
        self._reports = ReportClock(loaded.model.experts_state)
        self._counters = loaded.model.counters
        self._counted_before = self._counters()

    def events(self) -> Iterator[AnswerEvent]:
        """All events in order; the last one is Finished."""
        self._model.listen(self._stop)
        try:
            logits = yield from self._prefill()
            reason: FinishReason = "cancelled"
            if logits is not None:
                reason = yield from self._decode(logits)
        finally:
            self._model.listen(None)
        yield from self._token_events(None, self._parser.finish())
        yield from self._reports.report(at_end=True)
        yield self._finished(reason)

    def _append(self, ids: list[int]) -> Tensor | None:
        """Logits behind `ids`; None when the answer was stopped meanwhile."""
        try:
            return self._cache.append(ids)
        except Stopped:
            return None

    def _prefill(self) -> Generator[PrefillProgress | ExpertReport, None, Tensor | None]:
        """Compute what is not cached; returns the logits behind the prompt, None when stopped on the way."""
        logits = None
        done = self._cached_tokens = self._cache.reuse(self._ids)
        yield self._prefill_progress(done)
        while done < len(self._ids):
            if self._stop.is_set():
                return None
            started = time.perf_counter()
            chunk = self._ids[done : done + self._chunk_tokens]
            logits = self._append(chunk)
            self._prefill_s += time.perf_counter() - started
            if logits is None:
                return None
            done += len(chunk)
            yield self._prefill_progress(done)
            yield from self._reports.report()
        return logits

    def _decode(self, logits: Tensor) -> Generator[Token | ExpertReport, None, FinishReason]:
        """Sample, show, append. The token that ends the answer is neither shown nor counted."""
        newest: int | None = None
        while self._completion_tokens < self._limit:
            if self._stop.is_set():
                return "cancelled"
            started = time.perf_counter()
            if newest is not None:
                appended = self._append([newest])
                if appended is None:
                    return "cancelled"
                logits = appended
            newest = sample(logits, self._sampling, self._recent, self._generator)
            if newest in self._stop_ids:
                return "stop"
            self._recent.append(newest)
            pieces = self._parser.push(newest)
            self._count_token(time.perf_counter() - started)
            yield from self._token_events(newest, pieces)
            yield from self._reports.report()
        return "length"

    def _token_events(self, token: int | None, pieces: list[tuple[Channel, str]]) -> Iterator[Token]:
        """One event per piece, the id with the first one only. A token without text has an event too."""
        for channel, text in pieces or [(self._channel, "")] * (token is not None):
            self._channel = channel
            yield Token(token, text, channel)
            token = None

    def _count_token(self, seconds: float) -> None:
        """The first token comes out of the prefill, the following ones are what the decode rate is made of."""
        if self._completion_tokens:
            self._decode_s += seconds
        else:
            self._prefill_s += seconds
        self._completion_tokens += 1

    def _prefill_progress(self, done: int) -> PrefillProgress:
        return PrefillProgress(done, len(self._ids), self._cached_tokens, self._prefill_s)

    def _finished(self, reason: FinishReason) -> Finished:
        return Finished(
            reason=reason,
            text=self._parser.text,
            reasoning=self._parser.reasoning,
            tool_calls=tuple(self._parser.tool_calls),
            prompt_tokens=len(self._ids),
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
            prefill_s=self._prefill_s,
            decode_s=self._decode_s,
            seed=self._seed,
            tiers={name: count - self._counted_before[name] for name, count in self._counters().items()},
        )


def completion_limit(prompt_tokens: int, context_tokens: int, max_tokens: int | None) -> int:
    """How many tokens may follow the prompt. Raises RequestError when there is no room for any, or none are wanted."""
    if prompt_tokens >= context_tokens:
        raise ContextFullError(
            f"the prompt has {prompt_tokens} tokens, but the context holds {context_tokens} with the answer: "
            "shorten the prompt, begin a new conversation or start with a larger --ctx"
        )
    if max_tokens is not None and max_tokens < 1:
        raise RequestError(f"max_tokens is {max_tokens}, but must be 1 or more")
    room = context_tokens - prompt_tokens
    return room if max_tokens is None else min(room, max_tokens)


def checked_seed(seed: int | None) -> int:
    """The seed as asked for, or one drawn for this answer, short enough to be typed again."""
    if seed is None:
        return secrets.randbits(32)
    if not 0 <= seed < SEED_LIMIT:
        raise RequestError(f"seed is {seed}, but must be at least 0 and below 2^63")
    return seed
