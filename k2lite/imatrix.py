"""Collecting an importance matrix: a text goes through the model in chunks, and each weight's inputs are counted.

What llama.cpp's imatrix tool does with the same model and text, in its format, with the same chunks: each starts
without a past, and what is left of the text after the last whole chunk is not used.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from k2lite.engine_options import DEFAULT_KERNELS
from k2lite.imatrix_resume import Origin, Stopped, model_digest, only_run
from k2lite.load import ByteProgress, LoadedModel, load_model
from quant.errors import K2Error, RequestError
from quant.imatrix.collect import CollectingKernels
from quant.imatrix.imatrix_file import ImatrixHeader, write_statistics
from quant.kernels import Kernels

DEFAULT_CHUNK_TOKENS = 512
# The file is written now and then, so that a killed run loses little, but never for more than a twentieth of the time.
_SAVE_EVERY_S = 60.0
_SAVE_SHARE = 20.0


@dataclass(frozen=True)
class ImatrixJob:
    """What to collect. `dataset` is the name by which the file remembers the text; `max_chunks` None uses all of it."""

    model: Path
    text: str
    dataset: str
    destination: Path
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    max_chunks: int | None = None
    process_output: bool = False
    kernels: str = DEFAULT_KERNELS
    threads: int | None = None
    pin_threads: bool = False


@dataclass(frozen=True)
class ImatrixProgress:
    """Tokens counted so far, those of earlier runs (`resumed_tokens`) included; `memory_bytes` hold the statistics."""

    done_tokens: int
    total_tokens: int
    resumed_tokens: int
    elapsed_s: float
    memory_bytes: int


@dataclass(frozen=True)
class ImatrixReport:
    """What the file holds now."""

    path: Path
    weights: int
    chunks: int
    tokens: int


class CollectionStopped(K2Error):
    """The run was asked to stop. What it had counted is in the file, and the same command goes on from there."""


class _Stop(Exception):
    """Ends a forward pass at the next product."""


def collect_imatrix(
    job: ImatrixJob,
    *,
    loading: ByteProgress | None = None,
    progress: Callable[[ImatrixProgress], None] | None = None,
    stop: threading.Event | None = None,
    save_every_s: float = _SAVE_EVERY_S,
) -> ImatrixReport:
    """Collect, going on with what is at the destination when it is of the same text, model and options.

    The file is always complete for the chunks it has: a new one takes the old one's place, about every `save_every_s`
    seconds, with 0 after every chunk. Raises CollectionStopped when `stop` is set, within one product of one weight,
    and K2Error.
    """
    with ExitStack() as stack:
        stack.enter_context(only_run(job.destination))
        digest = hashlib.sha256(job.text.encode(errors="surrogatepass")).hexdigest()
        origin = Origin(digest, model_digest(job.model), job.chunk_tokens, job.process_output)
        earlier = Stopped.find(job.destination, origin)
        run = _Run(job, origin, stop or threading.Event(), save_every_s)
        loaded = load_model(
            job.model,
            kernels=job.kernels,
            threads=job.threads,
            pin_threads=job.pin_threads,
            progress=loading,
            wrap_kernels=run.collecting,
        )
        stack.callback(loaded.close)
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        chunks = _chunks(loaded, job)
        run.check_memory()
        if earlier is not None:
            earlier.restore(run.kernels)
        return run.all(loaded, chunks, earlier.chunks if earlier else 0, progress or _no_progress)


def _no_progress(state: ImatrixProgress) -> None:
    """Progress that nobody wants to see."""


def _chunks(loaded: LoadedModel, job: ImatrixJob) -> torch.Tensor:
    """Token ids [chunks, chunk_tokens]. Raises RequestError for a text without a whole chunk."""
    context, size = loaded.model.config.context_length, job.chunk_tokens
    if not 1 <= size <= context:
        raise RequestError(f"chunks of {size} tokens: must be at least 1 and at most the context, {context}")
    tokenizer = loaded.tokenizer
    bos = tokenizer.bos_id if tokenizer.adds_bos else None
    ids = ([] if bos is None else [bos]) + tokenizer.encode(job.text)
    count = len(ids) // size
    if not count:
        raise RequestError(
            f"the text has {len(ids)} tokens, but a chunk takes {size}: give a longer text or a smaller --chunk-size"
        )
    chunks = torch.tensor(ids[: count * size], dtype=torch.int64).view(count, size)
    if bos is not None:
        chunks[:, 0] = bos  # every chunk is the beginning of a text to the model
    return chunks[: job.max_chunks]


def _wanted(name: str, process_output: bool) -> bool:
    """Whether a weight is counted, by llama.cpp's rule: those of the layers, and the head only when asked for."""
    return name.startswith("blk.") or (process_output and name == "output.weight")


def _twin(name: str) -> str:
    """The weight that has the same inputs.

    Experts' sums are large enough to be kept only once. The router is not multiplied by the kernels, but sees what the
    shared expert sees; no file has it quantized, but llama.cpp's tool counts it as well.
    """
    return name.replace(".ffn_up_exps.", ".ffn_gate_exps.").replace(".ffn_gate_inp.", ".ffn_gate_shexp.")


class _Run:
    """One run from the loaded model to the written file. Owned by one thread."""

    kernels: CollectingKernels

    def __init__(self, job: ImatrixJob, origin: Origin, stop: threading.Event, save_every_s: float) -> None:
        self._job = job
        self._origin = origin
        self._stop = stop
        self._save_every_s = save_every_s

    def collecting(self, inner: Kernels) -> Kernels:
        """`inner`, counting."""
        self.kernels = CollectingKernels(
            inner, lambda name: _wanted(name, self._job.process_output), _twin, self._check_stop
        )
        return self.kernels

    def check_memory(self) -> None:
        """Raise RequestError when the statistics would not fit."""
        need, available = self.kernels.nbytes, psutil.virtual_memory().available
        if need > available:
            raise RequestError(
                f"the statistics take {need / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free: "
                "end other programs"
            )

    def all(
        self, loaded: LoadedModel, chunks: torch.Tensor, done: int, progress: Callable[[ImatrixProgress], None]
    ) -> ImatrixReport:
        """Count `chunks` [chunks, tokens] from number `done` on."""
        resumed, size, started = done, self._job.chunk_tokens, time.monotonic()
        total, saved_s, save_took_s = max(len(chunks), done), started, 0.0

        def report() -> None:
            elapsed_s = time.monotonic() - started
            progress(ImatrixProgress(done * size, total * size, resumed * size, elapsed_s, self.kernels.nbytes))

        report()
        while done < total:
            self._chunk(loaded, chunks[done], done, total)
            done += 1
            report()
            now = time.monotonic()
            wait_s = max(self._save_every_s, _SAVE_SHARE * save_took_s) if self._save_every_s else 0.0
            if done == total or now - saved_s >= wait_s:
                self._save(done)
                saved_s = time.monotonic()
                save_took_s = saved_s - now
        return ImatrixReport(self._job.destination, len(self.kernels.shapes), done, done * size)

    def _chunk(self, loaded: LoadedModel, ids: torch.Tensor, done: int, total: int) -> None:
        """Count one chunk. Whatever ends it early, what has been counted is saved."""
        model = loaded.model
        try:
            model.forward(ids, model.new_cache(len(ids)), last_only=not self._job.process_output)
        except _Stop as error:
            self._save(done)
            raise CollectionStopped(
                f"stopped after {done} of {total} chunks: the same command goes on from {self._job.destination}"
            ) from error
        except K2Error:
            self._save(done)
            raise
        self.kernels.end_chunk()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _Stop

    def _save(self, done: int) -> None:
        kernels, shapes = self.kernels, self.kernels.shapes
        if not shapes:
            return
        write_statistics(
            self._job.destination,
            ImatrixHeader((self._job.dataset,), done, self._job.chunk_tokens),
            shapes,
            ((name, kernels.statistics(name)) for name in shapes),
            self._origin.metadata(kernels.in_chunk),
        )
