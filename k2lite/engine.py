"""The engine that lives in the calling process: loads a model, then answers one request at a time."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from k2lite.engine_options import DEFAULT_CHUNK_TOKENS, EngineOptions
from k2lite.events import AnswerEvent, EngineInfo, LoadProgress, Request
from k2lite.generation import Generation
from k2lite.prefix_cache import PrefixCache
from k2lite.uncollected import uncollected
from offload.card_errors import card_errors
from quant.closing import Closing
from quant.errors import EngineError

if TYPE_CHECKING:
    from k2lite.load import LoadedModel

Report = Callable[[LoadProgress], None]
Loader = Callable[[Path | None, EngineOptions, Report], "LoadedModel"]


def load_with_progress(path: Path | None, options: EngineOptions, report: Report) -> "LoadedModel":
    """Load the model at `path`; None prepares the built-in demo model first, where that has not been done yet."""
    with uncollected("k2lite.load"):
        from k2lite.demo.prepare import prepare_demo_model
        from k2lite.load import load_model

    def report_bytes(done: int, total: int) -> None:
        report(LoadProgress(done, total))

    model_path = prepare_demo_model(report=report) if path is None else path
    return load_model(
        model_path,
        kernels=options.kernels,
        threads=options.threads,
        pin_threads=options.pin_threads,
        progress=report_bytes,
        memory=options.memory,
        record_routing=None if options.record_routing is None else Path(options.record_routing),
    )


class LocalEngine:
    """Implements events.Engine. `load` and `generate` are iterated by one thread, the owner of the model.

    `path` None means the built-in demo model. `head_start` has begun to read the file; it ends when all is loaded.
    """

    def __init__(
        self,
        path: Path | None,
        options: EngineOptions | None = None,
        loader: Loader = load_with_progress,
        head_start: Closing | None = None,
    ) -> None:
        self._path = path
        self._head_start = head_start
        self._options = options or EngineOptions()
        self._loader = loader
        self._loaded: LoadedModel | None = None
        self._cache: PrefixCache | None = None
        self._answering = False

    def load(self) -> Iterator[LoadProgress]:
        """Load the model; the iterator ends when it is ready. Does nothing when it is loaded already."""
        if self._loaded is not None:
            return
        try:
            loaded = yield from _run_reporting(lambda report: self._loader(self._path, self._options, report))
        finally:
            self._end_head_start()
        try:
            context = self._options.context_for(loaded.model.config.context_length)
            self._cache = PrefixCache(loaded.model, context)
            if self._options.threads is not None:
                torch.set_num_threads(self._options.threads)  # counts for the thread that calls it: the owner
        except BaseException:
            loaded.close()
            raise
        self._loaded = loaded

    def info(self) -> EngineInfo:
        """Facts about the loaded model; the context is the one in use, which may be smaller than the model's."""
        loaded, cache = self._ready()
        return replace(loaded.info, context_tokens=cache.capacity)

    def generate(self, request: Request, stop: threading.Event) -> Iterator[AnswerEvent]:
        """Answer `request`, reusing what the cache shares with it. See events.Engine."""
        loaded, cache = self._ready()
        if self._answering:
            raise RuntimeError("generate was called before the answer under way had ended")
        self._answering = True
        try:
            chunk_tokens = self._options.prefill_chunk_tokens or loaded.model.prefill_tokens or DEFAULT_CHUNK_TOKENS
            with card_errors("a card"):  # where nobody nearer to it knows which
                yield from Generation(loaded, cache, request, stop, chunk_tokens).events()
        finally:
            self._answering = False

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        self._end_head_start()
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = self._cache = None

    def _end_head_start(self) -> None:
        if self._head_start is not None:
            self._head_start.close()
            self._head_start = None

    def _ready(self) -> "tuple[LoadedModel, PrefixCache]":
        if self._loaded is None or self._cache is None:
            raise RuntimeError("the engine is used before load() has ended, or after close()")
        return self._loaded, self._cache


def _run_reporting(work: "Callable[[Report], LoadedModel]") -> "Generator[LoadProgress, None, LoadedModel]":
    """Run `work` in a thread and yield what it reports while it runs; returns its result or raises its error.

    When nobody iterates any more (Ctrl-C, say), the work is stopped at its next report and waited for: a thread that
    is still in native code when the interpreter ends would bring the process down.
    """
    reports: queue.SimpleQueue[LoadProgress | None] = queue.SimpleQueue()
    results: list[LoadedModel] = []
    errors: list[BaseException] = []
    abandoned = threading.Event()

    def report(progress: LoadProgress) -> None:
        if abandoned.is_set():
            raise EngineError("loading was stopped before its end")
        reports.put(progress)

    def run() -> None:
        try:
            results.append(work(report))
        except BaseException as error:  # whatever it is, it belongs to the thread that iterates
            errors.append(error)
        finally:
            reports.put(None)

    worker = threading.Thread(target=run, name="k2lite-load", daemon=True)
    worker.start()
    try:
        yield from iter(reports.get, None)
    except BaseException:
        abandoned.set()
        worker.join()
        for loaded in results:
            loaded.close()
        raise
    if errors:
        raise errors[0]
    return results[0]
